"""`elu-zoo finetune`: the folder that it leaves, and what interrupts it."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
from made_up import write_class_folders
from PIL import Image

import elu_zoo
from elu_zoo import files
from elu_zoo.cli import main

REPORT = {
    *("model.keras", "class_names.json", "history.csv", "learning_curve.png"),
    *("metrics.json", "classes.csv", "confusion_matrix.png"),
    *("errors.csv", "errors.png"),
}


def arguments(tmp_path, *more, out="out"):
    return [
        *("finetune", "elunet11.cifar100", str(tmp_path / "photos")),
        *("--out", str(tmp_path / out), "--json", *more),
    ]


def rows_of(file):
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def test_the_folder_that_it_leaves(zoo, tmp_path, capsys):
    write_class_folders(tmp_path / "photos", count=12)
    write_class_folders(tmp_path / "others", count=4)
    # Half of these have the other class's name.
    for i in range(2):
        red, green = (tmp_path / f"others/{name}/{i}.jpg" for name in ("red", "green"))
        red.rename(tmp_path / "swap"), green.rename(red)
        (tmp_path / "swap").rename(green)
    more = ["--validation", str(tmp_path / "others"), "--epochs", "3", "1"]
    more += ["--batch-size", "8", "--patience", "3", "--class-weight", "balanced"]
    more += ["--tensorboard", str(tmp_path / "events"), "--no-augment"]
    assert main(arguments(tmp_path, *more)) == 0
    result = json.loads(capsys.readouterr().out)
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == REPORT
    assert result["train"] == 24 and result["held_out"] == 8
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["temperature"] == result["temperature"] > 0
    assert 1 - metrics["error"] == pytest.approx(result["accuracy"])
    errors = rows_of(out / "errors.csv")
    assert len(errors) == round(8 * metrics["error"]) >= 1
    for row in errors:
        assert pathlib.Path(row["file"]).parent.name == row["class"] != row["answer"]
    confidences = [float(row["probability"]) for row in errors]
    assert confidences == sorted(confidences, reverse=True)
    assert [row["images"] for row in rows_of(out / "classes.csv")] == ["4", "4"]
    assert len(rows_of(out / "history.csv")) == 4
    for name in REPORT:
        if name.endswith(".png"):
            Image.open(out / name).verify()
    assert list((tmp_path / "events").rglob("events.out.tfevents.*"))

    # The same for any labelled folder, by the names of the model's classes.
    shutil.rmtree(tmp_path / "others/green")
    report = tmp_path / "report"
    evaluate = ["evaluate", str(out), str(tmp_path / "others"), "--json"]
    assert main([*evaluate, "--out", str(report)]) == 0
    figures = json.loads(capsys.readouterr().out)
    matrix = np.array(figures["confusion_matrix"])
    assert matrix[0].sum() == 0 and matrix[1].sum() == 4 == figures["n"]
    assert {path.name for path in report.iterdir()} == {
        *("metrics.json", "classes.csv", "confusion_matrix.png"),
        *("errors.csv", "errors.png"),
    }
    (tmp_path / "others/red").rename(tmp_path / "others/blue")
    assert main(evaluate) == 1
    assert "blue" in capsys.readouterr().err

    # And on with other images: what it knows stays.
    write_class_folders(tmp_path / "more", ("blue", "red"), count=3)
    again = ["finetune", str(out), str(tmp_path / "more"), "--epochs", "0", "0"]
    assert main([*again, "--out", str(tmp_path / "again"), "--json"]) == 0
    heads = [
        keras.saving.load_model(folder / "model.keras").get_layer("predictions")
        for folder in (out, tmp_path / "again")
    ]
    old, new = (np.array(head.kernel) for head in heads)
    np.testing.assert_array_equal(old[:, 1], new[:, 1])
    assert not np.allclose(old[:, 0], new[:, 0])


def test_new_classes_start_from_the_rows_of_their_names(zoo, tmp_path, capsys):
    write_class_folders(tmp_path / "photos", ("Bee", "dog", "ufo"), count=2)
    more = ["--epochs", "0", "0", "--threshold"]
    assert main(arguments(tmp_path, *more, "2")) == 1
    assert "threshold=2" in capsys.readouterr().err
    assert main(arguments(tmp_path, *more, "0.3")) == 0
    assert elu_zoo.get_record(elu_zoo.load(tmp_path / "out")).threshold == 0.3
    head = keras.saving.load_model(tmp_path / "out/model.keras").get_layer(
        "predictions"
    )
    published = elu_zoo.ELUNet11(weights="cifar100").get_layer("predictions")
    for weights, all_weights in zip(head.weights, published.weights, strict=True):
        for new, old in ((0, 1), (1, 3)):
            np.testing.assert_array_equal(
                np.array(weights)[..., new], np.array(all_weights)[..., old]
            )


def test_images_that_are_few_or_bad_do_not_stop_it(zoo, tmp_path, capsys):
    write_class_folders(tmp_path / "photos", count=3)
    (tmp_path / "photos/blue").mkdir()
    shutil.copy(tmp_path / "photos/red/0.jpg", tmp_path / "photos/blue/0.jpg")
    (tmp_path / "photos/red/bad.jpg").write_text("no image")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/.DS_Store").write_text("")
    assert main(arguments(tmp_path, "--epochs", "1", "0")) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["train"] == 5
    assert "bad.jpg" in printed.err and "one image" in printed.err
    for name in ("red", "green"):
        shutil.rmtree(tmp_path / "photos" / name)
        (tmp_path / "photos" / name).mkdir()
        shutil.copy(tmp_path / "photos/blue/0.jpg", tmp_path / "photos" / name)
    assert main(arguments(tmp_path, out="other")) == 1
    assert "--holdout 0" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_an_error_in_the_users_callbacks_keeps_its_traceback(
    zoo, tmp_path, monkeypatch
):
    write_class_folders(tmp_path / "photos", count=2)
    text = "def make():\n    raise ValueError('mine')\n"
    (tmp_path / "my_callbacks.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="^mine$"):
        main(arguments(tmp_path, "--callbacks", "my_callbacks:make"))


def test_impossible_epochs_are_wrong_usage(zoo, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments(tmp_path, "--epochs", "-1", "2"))
    assert "0 or more, received '-1'" in capsys.readouterr().err


def test_killed_it_resumes_to_the_same_bits(zoo, tmp_path):
    write_class_folders(tmp_path / "photos", count=12)
    more = ["--epochs", "1", "5", "--batch-size", "2"]
    environ = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}

    def start(out):
        command = [
            sys.executable,
            "-m",
            "elu_zoo",
            *arguments(tmp_path, *more, out=out),
        ]
        return subprocess.Popen(
            command, env=environ, stdout=-1, stderr=-1, text=True, cwd=tmp_path
        )

    # In processes of their own: the same bits are promised between like ones.
    assert start("whole").wait(300) == 0
    checkpoint, seen = tmp_path / "out/checkpoint.npz", None
    for number in (signal.SIGKILL, signal.SIGTERM):
        process, give_up = start("out"), time.monotonic() + 200
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == seen:
            assert process.poll() is None and time.monotonic() < give_up
            time.sleep(0.02)
        process.send_signal(number)
        _, error = process.communicate(timeout=100)
        seen = checkpoint.stat().st_mtime_ns
        if number == signal.SIGKILL:
            assert process.returncode == -number
        else:
            assert process.returncode == 128 + number
            assert "the same command resumes" in error.splitlines()[-1]
            assert "Traceback" not in error
        assert not (tmp_path / "out/model.keras").exists()
    process = start("out")
    assert process.wait(300) == 0, process.communicate()
    assert {path.name for path in (tmp_path / "out").iterdir()} == REPORT
    models = [
        keras.saving.load_model(tmp_path / name / "model.keras", compile=False)
        for name in ("whole", "out")
    ]
    for one, other in zip(*(model.variables for model in models), strict=True):
        np.testing.assert_array_equal(np.array(one), np.array(other))
    assert rows_of(tmp_path / "whole/history.csv") == rows_of(
        tmp_path / "out/history.csv"
    )


def test_a_network_that_reconstructs_is_refused_before_images_are_read(
    tmp_path, capsys
):
    elu_zoo.MNISTAutoencoder(width=0.1).save(tmp_path / "model.keras")
    command = ["finetune", str(tmp_path), "nowhere", "--out", str(tmp_path / "out")]
    assert main(command) == 1
    assert "MNISTAutoencoder, which reconstructs" in capsys.readouterr().err


def test_interrupted_before_its_checkpoint_it_starts_over(zoo, tmp_path, capsys):
    write_class_folders(tmp_path / "photos", count=4)
    out = tmp_path / "out"
    (out / "logs").mkdir(parents=True)
    assert main(arguments(tmp_path)) == 1
    assert "new or empty folder" in capsys.readouterr().err
    with files.locked(out):
        assert main(arguments(tmp_path)) == 1
        assert "Another process is writing to it" in capsys.readouterr().err
    # An interrupted run leaves the file of its lock.
    assert main(arguments(tmp_path)) == 0
    assert {path.name for path in out.iterdir()} == REPORT | {"logs"}
