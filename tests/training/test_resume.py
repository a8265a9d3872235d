import csv
import fcntl
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from launch import command
from PIL import Image

from training.engine import checkpoint, loop, provenance, runlog
from training.engine.checkpoint import find
from training.engine.recipe import Recipe
from training.train import main

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments):
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def content(out):
    with np.load(find(out)[0]) as file:
        arrays = {name: file[name] for name in file.files if name != "meta.json"}
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["seconds"], row["images_per_second"]
    return arrays, rows


@pytest.fixture(scope="module")
def uninterrupted(recipe_path, data_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "a"
    result = run(recipe_path, data_dir, out)
    assert result.returncode == 0, result.stderr
    return out


def kill_after(process, out, delay):
    """Kills some time after the next checkpoint, so at another moment of a step."""
    before = find(out)
    while process.poll() is None:
        if find(out) != before:
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            return process.wait()
        time.sleep(0.002)
    return process.returncode


def test_killed_runs_end_with_the_same_bits(
    uninterrupted, recipe_path, data_dir, tmp_path
):
    out = tmp_path / "run"
    kills = 0
    for delay in (0.0, 0.13, 0.31):
        process = subprocess.Popen(
            command(recipe_path, data_dir, out),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        kills += kill_after(process, out, delay) == -signal.SIGKILL
    assert kills >= 2
    result = run(recipe_path, data_dir, out)
    assert result.returncode == 0, result.stderr
    arrays, rows = content(out)
    expected_arrays, expected_rows = content(uninterrupted)
    assert rows == expected_rows
    assert arrays.keys() == expected_arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected_arrays[name], err_msg=name)
    assert json.loads((out / "run.json").read_text())["starts"] == kills + 1
    assert not list(out.glob(".part*"))


def test_a_run_leaves_all_that_it_promises(uninterrupted):
    names = {path.name for path in uninterrupted.iterdir()}
    assert names >= {
        *("recipe.py", "run.json", "log.csv", "curve.png", "checkpoint-00000080.npz"),
        *("best.weights.h5", "last.weights.h5"),
    }
    assert list(uninterrupted.glob("events.out.tfevents.*"))
    facts = json.loads((uninterrupted / "run.json").read_text())
    assert facts["settings"]["eval_split"] == "holdout"
    assert facts["settings"]["train_examples"] == 400
    assert facts["machine"]["keras"]
    assert (uninterrupted / "curve.png").read_bytes()[:4] == b"\x89PNG"
    _, rows = content(uninterrupted)
    assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
    assert sum(row["eval_error"] != "" for row in rows) == 4


def test_events_hold_each_value_once(uninterrupted):
    loader = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator",
        reason="needs tensorboard",
    )
    events = loader.EventAccumulator(str(uninterrupted))
    events.Reload()
    steps = [event.step for event in events.Scalars("train/loss")]
    assert steps == list(range(5, 81, 5))


def test_a_finished_run_is_left_alone(uninterrupted, recipe_path, data_dir):
    before = content(uninterrupted)
    result = run(recipe_path, data_dir, uninterrupted)
    assert result.returncode == 0, result.stderr
    assert "error" in result.stdout
    after = content(uninterrupted)
    assert after[1] == before[1]


def test_another_recipe_in_the_same_folder(uninterrupted, recipe_path, data_dir):
    result = run(recipe_path, data_dir, uninterrupted, "--seed", "3")
    assert result.returncode == 2
    assert "seed=3, there 0" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_recipe_with_another_rate_in_the_same_folder(
    uninterrupted, recipe_path, data_dir, tmp_path
):
    other = tmp_path / "tiny.py"
    text = recipe_path.read_text()
    other.write_text(text.replace("WarmupLinear(0.02", "WarmupLinear(0.03"))
    result = run(other, data_dir, uninterrupted)
    assert result.returncode == 2 and "whose code is not that of" in result.stderr
    other.write_text(f'"""Another docstring."""\n# And a comment.\n{text}')
    assert run(other, data_dir, uninterrupted).returncode == 0


def test_a_second_process_in_the_same_folder(uninterrupted, recipe_path, data_dir):
    with (uninterrupted / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = run(recipe_path, data_dir, uninterrupted)
    assert result.returncode == 75 and "Another process is at work" in result.stderr


def test_what_was_lost_between_the_last_checkpoint_and_the_end_is_made(
    uninterrupted, recipe_path, data_dir, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    facts = json.loads((out / "run.json").read_text())
    assert facts["finished"]
    (out / "run.json").write_text(json.dumps(facts | {"finished": False}))
    for file in (out / "curve.png", *out.glob("events*")):
        file.unlink()
    published = [sys.executable, "-m", "training.publish", str(out), "--name", "x.y"]
    result = subprocess.run(
        [*published, "--data", str(data_dir)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 1
    assert "which was stopped after step 80" in result.stderr
    result = run(recipe_path, data_dir, out)
    assert result.returncode == 0, result.stderr
    assert (out / "curve.png").is_file() and list(out.glob("events*"))
    assert json.loads((out / "run.json").read_text())["finished"]


def test_any_torn_last_line_of_the_log_is_passed_over(uninterrupted, tmp_path):
    whole = (uninterrupted / "log.csv").read_text()
    *_, last = whole.splitlines(keepends=True)
    rows = runlog.read(uninterrupted / "log.csv")
    for length in range(1, len(last)):
        (tmp_path / "log.csv").write_text(whole[: -len(last)] + last[:length])
        assert runlog.read(tmp_path / "log.csv") == rows[:-1]
    (tmp_path / "log.csv").write_text(whole + "85,4.25\n")
    assert runlog.read(tmp_path / "log.csv") == rows


def test_no_git_no_commit(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance._commit() is None


@pytest.mark.parametrize(
    "option",
    [
        *(("--epochs", "0"), ("--batch-size", "-8"), ("--holdout", "-5")),
        *(("--log-every", "0"), ("--checkpoint-every", "0"), ("--cpu-devices", "-1")),
    ],
)
def test_numbers_that_cannot_be(option, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["recipe.py", "--data", "x", "--out", "y", *option])
    assert stop.value.code == 2 and option[1] in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, factor",
    [([], 4), (["--rate-scaling", "sqrt"], 2), (["--rate-scaling", "none"], 1)],
)
def test_a_larger_batch_changes_the_rate(options, factor, monkeypatch):
    calls = []

    def train(path, recipe, *arguments, rate_factor, **more):
        calls.append((recipe.batch_size, rate_factor))

    monkeypatch.setattr(loop, "train", train)
    recipe = str(ROOT / "training/recipes/elunet11_cifar100.py")
    arguments = ["--data", "x", "--out", "y", "--batch-size", "1024"]
    main([recipe, *arguments, *options])
    assert calls == [(1024, factor)]


@pytest.mark.parametrize(
    "error, alone, in_a_cluster",
    [
        ("InternalError", None, 75),
        ("UnavailableError", None, 75),
        ("DataLossError", 2, 2),
        ("NotFoundError", 2, 2),
    ],
)
def test_status_by_what_tensorflow_says(error, alone, in_a_cluster, monkeypatch):
    import tensorflow as tf

    class Exited(BaseException):
        pass

    def leave(status):
        raise Exited(status)

    def fails(*arguments, **options):
        raise getattr(tf.errors, error)(None, None, "the cause")

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(loop, "train", fails)
    recipe = str(ROOT / "training/recipes/elunet11_cifar100.py")
    arguments = [recipe, "--data", "x", "--out", "y"]
    cluster = {"worker": ["a:1", "b:1"]}
    config = {"cluster": cluster, "task": {"type": "worker", "index": 0}}
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for status in (alone, in_a_cluster):
        with pytest.raises(Exited if status else tf.errors.OpError) as stop:
            main(arguments)
        assert status is None or stop.value.args == (status,)
        monkeypatch.setenv("TF_CONFIG", json.dumps(config))


def test_splits_that_do_not_fit_each_other(tmp_path):
    def write(split, classes, size=(8, 8)):
        for name in classes:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", size).save(tmp_path / split / name / "1.png")

    recipe = Recipe(
        model="ELUNet11",
        model_arguments={},
        dataset="image_folder",
        batch_size=1,
        epochs=1,
        optimizer=None,
        learning_rate=None,
    )
    write("train", ("apple", "grass", "sky"))
    write("test", ("Sky", "apple", "grass"))
    with pytest.raises(ValueError, match=r"differ in \['Sky', 'sky'\]"):
        loop.load_data(recipe, tmp_path)
    shutil.rmtree(tmp_path / "test")
    write("test", ("apple", "grass", "sky"), (8, 6))
    with pytest.raises(ValueError, match=r"\(6, 8, 3\) to evaluate on"):
        loop.load_data(recipe, tmp_path)


def test_a_checkpoint_with_a_damaged_directory_is_damaged(tmp_path):
    path = checkpoint.save(tmp_path, {"model": [np.arange(3)]}, {"step": 1})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"PK\x01\x02")
    # The method of compression, and the bit that says "encrypted".
    encrypted = data[entry + 8] | 1
    for place, value in ((entry + 10, 99), (entry + 10, 8), (entry + 8, encrypted)):
        damaged = bytearray(data)
        damaged[place] = value
        path.write_bytes(damaged)
        with pytest.raises(checkpoint.DamagedCheckpoint):
            checkpoint.restore(tmp_path, {"model": []})


def damage(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_damaged_checkpoint_is_passed_over(
    uninterrupted, recipe_path, data_dir, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    newest, before = find(out)
    damage(newest)
    result = run(recipe_path, data_dir, out)
    assert result.returncode == 0, result.stderr
    assert f"{newest.name} to be a checkpoint; it is damaged" in result.stderr
    assert "from step 75 of 80" in result.stderr
    assert content(out)[1] == content(uninterrupted)[1]
    for path in (newest, before):
        damage(path)
    result = run(recipe_path, data_dir, out)
    assert result.returncode == 2
    assert "All are damaged" in result.stderr and "Traceback" not in result.stderr
    assert find(out) == [newest, before]


def test_a_folder_that_cannot_be_written(
    uninterrupted, recipe_path, data_dir, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    newest, before = find(out)
    newest.unlink()
    # The limit stands for a full disk: writing beyond it fails.
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -f 16; trap "" XFSZ; exec "$@"', "bash"]
        + command(recipe_path, data_dir, out),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert limited.returncode == 2, limited.stderr
    last_line = limited.stderr.splitlines()[-1]
    assert last_line.startswith("training.train: ")
    assert f"The last checkpoint in {out} is whole" in last_line
    assert find(out) == [before]
    result = run(recipe_path, data_dir, out)
    assert result.returncode == 0, result.stderr
    for name, array in content(out)[0].items():
        np.testing.assert_array_equal(array, content(uninterrupted)[0][name])


def test_missing_data_and_recipe_are_named(recipe_path, tmp_path):
    result = run(recipe_path, tmp_path / "nowhere", tmp_path / "run")
    assert result.returncode == 2
    assert "nowhere" in result.stderr and "Traceback" not in result.stderr
    result = run(tmp_path / "no.py", tmp_path, tmp_path / "run")
    assert result.returncode == 2
    assert "training/recipes/elunet11_cifar100.py" in result.stderr
