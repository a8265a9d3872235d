import csv
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from made_up import write_class_folders
from PIL import Image

import elu_zoo
from elu_zoo.cli import COMMANDS, main, make_parser
from elu_zoo.cli.common import SOURCE_HELP


def write_test_split(folder):
    write_class_folders(folder / "test", ("ant", "bee", "cat"), 5, 24)
    for file in (folder / "test").rglob("*.jpg"):
        Image.open(file).resize((32, 32)).save(file)
    (folder / "test/dog").mkdir()
    Image.new("RGB", (32, 32)).save(folder / "test/dog/1.jpg")


def test_list(zoo, capsys):
    assert main(["list"]) == 0
    header, row = capsys.readouterr().out.splitlines()
    assert header.split()[:2] == ["weights", "data"]
    assert row.split()[0] == "elunet11.cifar100" and "50.00%" in row
    assert main(["list", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["class_names"] == ["ant", "bee", "cat", "dog"]


def test_doctor_names_the_cache_and_the_weights(zoo, tmp_path, capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert f"cache: {tmp_path / 'keras/elu_zoo'}" in printed
    assert f"elunet11.cifar100  {zoo}" in printed and "Missing: nothing" in printed


def test_every_argument_for_a_model_completes_to_weights(zoo):
    subparsers = make_parser()._subparsers._group_actions[0].choices
    found = {
        name: action.completer("elunet11")
        for name, parser in subparsers.items()
        for action in parser._actions
        if (action.help or "").startswith(SOURCE_HELP)
    }
    assert found == dict.fromkeys(
        ["predict", "similar", "explain", "finetune", "export", "evaluate"],
        ["elunet11.cifar100"],
    )


def test_finetune_predict_export(zoo, tmp_path, capsys):
    write_class_folders(tmp_path / "photos")
    out = tmp_path / "out"
    assert (
        main(
            [
                *("finetune", "elunet11.cifar100", str(tmp_path / "photos")),
                *("--out", str(out), "--epochs", "40", "10"),
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    assert "Training on 16 images of 2 classes; 4 held out" in printed
    assert "100.0% after fine-tuning" in printed
    assert json.loads((out / "class_names.json").read_text()) == ["green", "red"]
    with (out / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == [str(i) for i in range(1, 51)]
    assert float(rows[-1]["val_accuracy"]) == 1

    red = str(tmp_path / "photos/red/3.jpg")
    assert main(["predict", red, "--model", str(out), "--top", "1", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["classes"] == ["red"]

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        served = tmp_path / "served"
        assert main(["export", str(out), "--out", str(served), "--json"]) == 0
        path = json.loads(capsys.readouterr().out)["path"]
        serve = tf.saved_model.load(path).signatures["serve_bytes"]
        data = open(red, "rb").read()
        assert serve(image_bytes=tf.constant([data]))["classes"][0, 0] == b"red"
        file = ["--out", str(tmp_path / "int8.onnx"), "--format", "onnx"]
        images = ["--dtype", "int8", "--calibration", str(tmp_path / "photos")]
        assert main(["export", str(out), *file, *images]) == 0
        assert "int8.onnx: probabilities differ" in capsys.readouterr().out

    before = (out / "model.keras").read_bytes()
    arguments = ["finetune", "elunet11.cifar100", str(tmp_path / "photos")]
    assert main([*arguments, "--out", str(out)]) == 1
    assert "new or empty folder" in capsys.readouterr().err
    assert (out / "model.keras").read_bytes() == before


def test_finetune_frozen_leaves_the_trunk_as_it_was(zoo, tmp_path, capsys):
    write_class_folders(tmp_path / "photos")
    out = tmp_path / "out"
    arguments = ["finetune", "elunet11.cifar100", str(tmp_path / "photos"), "--frozen"]
    assert main([*arguments, "--out", str(out), "--epochs", "2", "9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["held_out"] == 4
    tuned = keras.saving.load_model(out / "model.keras")
    published = elu_zoo.ELUNet11(weights="cifar100")
    for name in ("stack1_conv1", "stack6_conv1"):
        np.testing.assert_array_equal(
            tuned.get_layer(name).kernel, published.get_layer(name).kernel
        )


@keras.saving.register_keras_serializable("elsewhere")
class Unknown(keras.layers.ReLU):
    """A layer that a new process does not know."""


def test_a_model_with_an_unknown_layer_is_one_line(zoo, tmp_path, capsys, monkeypatch):
    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, Unknown()(inputs)).save(tmp_path / "model.keras")
    monkeypatch.delitem(keras.saving.get_custom_objects(), "elsewhere>Unknown")
    monkeypatch.delattr(sys.modules[__name__], "Unknown")
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    files = [str(tmp_path / name) for name in ("image.png", "model.keras")]
    assert main(["predict", files[0], "--model", files[1]]) == 1
    error = capsys.readouterr().err.strip()
    assert "'Unknown'" in error and "\n" not in error


def test_a_folder_named_like_weights_does_not_hide_them(
    zoo, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elunet11.cifar100").mkdir()
    Image.new("RGB", (32, 32)).save("image.png")
    assert main(["predict", "image.png", "--json"]) == 0
    assert "bee" in capsys.readouterr().out
    assert main(["predict", "image.png", "--model", "./elunet11.cifar100"]) == 1
    assert "model.keras" in capsys.readouterr().err


def test_evaluate_counts_against_predict_and_the_card(
    zoo, tmp_path, monkeypatch, capsys
):
    write_test_split(tmp_path)
    arguments = ["evaluate", "elunet11.cifar100", "--data", str(tmp_path)]
    out = tmp_path / "figures.json"
    main([*arguments, "--json", "--out", str(out)])
    figures = json.loads(capsys.readouterr().out)
    assert json.loads(out.read_text()) == figures
    model = elu_zoo.ELUNet11(weights="cifar100")
    wrong = 0
    for label, name in enumerate(["ant", "bee", "cat", "dog"]):
        for file in (tmp_path / "test" / name).glob("*.jpg"):
            pixels = np.asarray(Image.open(file))[None]
            wrong += int(np.asarray(model(pixels)).argmax()) != label
    assert figures["n"] == 16
    assert figures["error"] == pytest.approx(wrong / 16)
    manifest = json.loads((zoo / "manifest.json").read_text())
    metrics = manifest["weights"]["elunet11.cifar100"]["metrics"]
    for card, code in ((wrong / 16, 0), (wrong / 16 - 0.001, 1)):
        metrics["error"] = card
        monkeypatch.setenv("ELU_ZOO_MANIFEST", str(tmp_path / "manifest.json"))
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        assert main([*arguments, "--json"]) == code
        assert ("the card says" in capsys.readouterr().err) == bool(code)
        assert main(arguments) == code
        printed = capsys.readouterr().out
        assert f"{wrong / 16:7.2%}" in printed
        assert ("it agrees" in printed, "DIFFERS" in printed) == (not code, bool(code))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["predict", "nothing/*.png"], "nothing/*.png"),
        (["predict", "x.png", "--out", "x.txt"], ".csv, .jsonl, .parquet"),
        (["predict", "x.png", "--out", "nowhere/x.csv"], "nowhere"),
        (["predict", "x.png", "--top", "0"], "top=0"),
        (["fetch"], "--all"),
        (["fetch", "elunet11.cifar10"], "Did you mean elunet11.cifar100?"),
        (["predict", "x.png", "--model", "elunet12.cifar100"], "elunet12.cifar100"),
        (["predict", "x.png", "--model", "no.keras"], "There is no no.keras"),
        (["evaluate", "elunet11.nothing", "--data", "."], "elunet11.nothing"),
        (["evaluate", "elunet11.cifar100", "--data", "nowhere"], "nowhere"),
        (["finetune", "elunet11.cifar100", "nowhere", "--out", "o"], "nowhere"),
        (["export", "nothing", "--out", "o"], "nothing"),
        (["list", "--model", "elunet12"], "elunet12"),
        (["evaluate", "elunet11.cifar100", "--data", ".", "--out", "a/b"], "a/"),
        (["evaluate", "elunet11.cifar100", "--data", ".", "--out", "."], "folder ."),
        (["explain", "x.png", "--out", "."], "folder ."),
    ],
)
def test_failures_are_one_line_and_exit_code_1(
    zoo, arguments, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith(f"elu-zoo {arguments[0]}: ") and message in error
    assert "\n" not in error and not (tmp_path / "o").exists()


def test_an_impossible_out_is_found_before_the_training(zoo, tmp_path, capsys):
    write_class_folders(tmp_path / "photos", count=3)
    (tmp_path / "file").write_text("")
    arguments = ["finetune", "elunet11.cifar100", str(tmp_path / "photos")]
    assert main([*arguments, "--out", str(tmp_path / "file/out")]) == 1
    printed = capsys.readouterr()
    assert "file/out" in printed.err and "Epoch" not in printed.out


def test_ctrl_c_is_one_line(monkeypatch, capsys):
    def run(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(COMMANDS["list"], "run", run)
    assert main(["list"]) == 130
    assert capsys.readouterr().err.strip() == "elu-zoo list: interrupted"


def test_a_reader_that_stops_early_gets_no_traceback(zoo):
    command = f"{sys.executable} -m elu_zoo list --json | true"
    result = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert "Traceback" not in result.stderr and "Broken pipe" not in result.stderr


def test_wrong_usage_exits_with_2(capsys):
    resized = ["predict", "x.png", "--model", "elunet15.tiny_imagenet", "--resize"]
    seeded = ["finetune", "elunet11.cifar100", "x", "--out", "y", "--seed", "-1"]
    for arguments in ([], ["fly"], ["export", "x"], [*resized, "0"], seeded):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
    capsys.readouterr()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples(name, capsys):
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert f"  elu-zoo {name}" in capsys.readouterr().out


def test_runs_as_a_module():
    result = subprocess.run(
        [sys.executable, "-m", "elu_zoo", "--help"], capture_output=True, text=True
    )
    assert result.returncode == 0 and "finetune" in result.stdout
