import csv
import io
import json
import sys

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

import elu_zoo
from elu_zoo import row_files
from elu_zoo.batch import Predictor
from elu_zoo.cli import main
from elu_zoo.cli.predict import _suggest

NAMES = ["ant", "bee", "cat", "dog"]


def write_images(folder, count):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        pixels = rng.integers(0, 256, (32, 32, 3)).astype("uint8")
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")


def read_rows(file):
    """The rows of a file in any of the formats: path, classes, probabilities, error."""
    if file.suffix == ".jsonl":
        return [json.loads(line) for line in file.read_text().splitlines()]
    if file.suffix == ".parquet":
        return pyarrow.parquet.read_table(file).to_pylist()
    with file.open(newline="") as lines:
        return [
            {
                "path": row["path"],
                "classes": [row[k] for k in row if k.startswith("class_")],
                "probabilities": [
                    float(row[k]) for k in row if k.startswith("probability_")
                ],
                "error": row["error"] or None,
            }
            for row in csv.DictReader(lines)
        ]


def test_predict_prints_what_the_model_says(zoo, tmp_path, capsys):
    write_images(tmp_path, 1)
    file = tmp_path / "000.png"
    model = elu_zoo.ELUNet11(weights="cifar100")
    expected = np.asarray(model(np.asarray(Image.open(file))[None]))[0]
    assert main(["predict", str(file), "--top", "2", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    order = np.argsort(-expected)[:2]
    assert answer["classes"] == [NAMES[i] for i in order]
    np.testing.assert_allclose(answer["probabilities"], expected[order], atol=1e-5)
    rounding = ["--top", "2", "--json", "--dtype", "bfloat16"]
    assert main(["predict", str(file), *rounding]) == 0
    (rounded,) = json.loads(capsys.readouterr().out)
    assert rounded["probabilities"] != answer["probabilities"]
    np.testing.assert_allclose(rounded["probabilities"], expected[order], atol=0.02)
    assert main(["predict", str(file), "--model", "CIFAR100"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "elunet11.cifar100" in lines[0] and lines[1] == str(file)
    assert lines[2].split() == [f"{expected.max():.1%}", NAMES[order[0]]]


@pytest.mark.parametrize("suffix", row_files.FORMATS)
def test_every_source_and_format(zoo, tmp_path, monkeypatch, capsys, suffix):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "a/b", 3)
    write_images(tmp_path / "c", 2)
    (tmp_path / "c/001.png").write_bytes((tmp_path / "c/000.png").read_bytes()[:700])
    (tmp_path / "c/x.txt").write_text("no image")
    (tmp_path / "list").write_text("\ufeffc/000.png\r\nmissing,\"'.png\n", "utf-8")
    stdin = io.TextIOWrapper(io.BytesIO(b"c/x.txt\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    sources = ["a", "c/*.png", "@list", "-", "a/b/001.png"]
    out = tmp_path / f"out{suffix}"
    assert main(["predict", *sources, "--out", str(out), "--top", "9"]) == 3
    assert "9 rows predicted by elunet11.cifar100, 3 of them" in capsys.readouterr().out
    rows = read_rows(out)
    assert [row["path"] for row in rows] == [
        *("a/b/000.png", "a/b/001.png", "a/b/002.png", "c/000.png", "c/001.png"),
        *("c/000.png", "missing,\"'.png", "c/x.txt", "a/b/001.png"),
    ]
    model = elu_zoo.ELUNet11(weights="cifar100")
    for row in rows:
        if row["error"]:
            assert row["path"] in row["error"] and not any(row["probabilities"])
            continue
        expected = np.asarray(model(np.asarray(Image.open(row["path"]))[None]))[0]
        assert row["classes"] == [NAMES[i] for i in np.argsort(-expected)]
        np.testing.assert_allclose(
            row["probabilities"], np.sort(expected)[::-1], atol=1e-5
        )


def test_interrupted_the_same_command_resumes(zoo, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(row_files, "ROWS", 64)
    write_images(tmp_path / "images", 200)
    whole, out = tmp_path / "whole.csv", tmp_path / "out.csv"
    arguments = ["predict", str(tmp_path / "images"), "--out"]
    assert main([*arguments, str(whole)]) == 0
    with monkeypatch.context() as patch:
        answer, calls = Predictor._answer, []

        def interrupted(self, futures):
            calls.append(futures)
            if len(calls) > 2:
                raise KeyboardInterrupt
            return answer(self, futures)

        patch.setattr(Predictor, "_answer", interrupted)
        assert main([*arguments, str(out)]) == 130
    assert not out.exists()
    assert main([*arguments, str(out), "--top", "2"]) == 1
    assert "different values of --top" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        read, calls = Predictor._read, []
        count = lambda self, path: calls.append(path) or read(self, path)  # noqa: E731
        patch.setattr(Predictor, "_read", count)
        assert main([*arguments, str(out)]) == 0
        assert len(calls) == 200 - 128
    assert out.read_bytes() == whole.read_bytes()


def test_embeddings_and_similar(zoo, tmp_path, capsys):
    write_images(tmp_path / "images", 5)
    images = np.stack(
        [np.asarray(Image.open(f)) for f in sorted(tmp_path.glob("images/*"))]
    )
    model = elu_zoo.ELUNet11(weights="cifar100")
    maps = elu_zoo.features(model, ["stack5"])(images)["stack5"]
    expected = np.asarray(maps, "float64").mean((1, 2))
    out = tmp_path / "vectors.jsonl"
    arguments = ["--embeddings", "stack5"]
    folder = str(tmp_path / "images")
    assert main(["predict", folder, *arguments, "--out", str(out)]) == 0
    vectors = [row["vector"] for row in read_rows(out)]
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    capsys.readouterr()

    query = str(tmp_path / "images/003.png")
    assert main(["similar", query, folder, *arguments, "--top", "3", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    order = np.argsort(-(unit @ unit[3]))[:3]
    assert [row["path"] for row in answer] == [f"{folder}/{i:03d}.png" for i in order]
    np.testing.assert_allclose(
        [row["similarity"] for row in answer], (unit @ unit[3])[order], atol=1e-5
    )
    rounding = ["--top", "5", "--json", "--dtype", "bfloat16"]
    assert main(["similar", query, folder, *arguments, *rounding]) == 0
    rounded = [row["similarity"] for row in json.loads(capsys.readouterr().out)]
    exact = np.sort(unit @ unit[3])[::-1]
    assert 0 < np.abs(rounded - exact).max() < 0.02


def test_models_of_logits_gray_images_and_any_size(zoo, tmp_path, capsys):
    image = str(tmp_path / "image.png")
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28)).astype("uint8")
    Image.fromarray(pixels).save(image)
    gray = elu_zoo.MNISTClassifier(classifier_activation=None)
    gray.save(tmp_path / "gray.keras")
    predict = ["predict", image, "--json", "--model"]
    assert main([*predict, str(tmp_path / "gray.keras"), "--top", "10"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    logits = np.asarray(gray(pixels[None, ..., None]), "float64")[0]
    expected = np.exp(logits - logits.max())
    np.testing.assert_allclose(
        answer["probabilities"], np.sort(expected / expected.sum())[::-1], atol=1e-6
    )
    model = elu_zoo.ELUNet15(width=0.02, classes=3, input_shape=(None, None, 3))
    model.save(tmp_path / "any.keras")
    assert main([*predict, str(tmp_path / "any.keras")]) == 1
    assert "resize=SIDE" in capsys.readouterr().err
    assert main([*predict, str(tmp_path / "any.keras"), "--resize", "40"]) == 0


@pytest.mark.parametrize("size, suggested", [(32, False), (300, True)])
def test_photographs_get_a_suggestion(zoo, tmp_path, capsys, size, suggested):
    Image.new("RGB", (size, size)).save(tmp_path / "image.jpg")
    assert main(["predict", str(tmp_path / "image.jpg")]) == 0
    assert ("--model elunet15" in capsys.readouterr().err) == suggested


def test_photographs_get_a_suggestion_with_either_cifar_network(tmp_path):
    Image.new("RGB", (300, 300)).save(tmp_path / "image.jpg")
    for model in ("elunet11.cifar100", "elunet18.cifar100"):
        with pytest.warns(UserWarning, match=f"{model} was trained on"):
            _suggest(model, [str(tmp_path / "image.jpg")])


def test_similar_warns_of_what_is_no_image(zoo, tmp_path, capsys):
    write_images(tmp_path, 2)
    (tmp_path / "bad.png").write_text("no image")
    assert main(["similar", str(tmp_path / "000.png"), str(tmp_path)]) == 3
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 2
    assert "1 left out" in printed.err and "bad.png" in printed.err
