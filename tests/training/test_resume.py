import csv
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import keras
import launch
import numpy as np
import pytest
from launch import command
from PIL import Image

from elu_zoo.errors import UserError
from training import publish
from training.engine import (
    checkpoint,
    dependencies,
    inputs,
    loop,
    provenance,
    runlog,
)
from training.engine.checkpoint import find
from training.engine.recipe import Recipe, load_recipe
from training.train import main

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments):
    return subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=900
    )


def outcome(*arguments):
    """Exit status and stderr of `training.train`, in this process."""
    _, _, _, *arguments = command(*arguments)
    return launch.outcome(main, *arguments)


def resume(recipe_path, data_dir, out, **options):
    recipe = load_recipe(recipe_path)
    precision = json.loads((out / "run.json").read_text())["settings"]["precision"]
    return loop.train(
        recipe_path,
        recipe,
        data_dir,
        out,
        precision=precision,
        progress=False,
        **options,
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


def newest(out):
    """Step of the newest checkpoint."""
    return max((int(path.stem[-8:]) for path in find(out)), default=0)


def logged(out):
    return len(runlog.read(out / "log.csv"))


def interrupt(arguments, progress, out, number, delay):
    """Starts a run and signals it some time after its `progress` grew."""
    before = progress(out)
    process = subprocess.Popen(
        arguments, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    while process.poll() is None:
        if progress(out) > before:
            time.sleep(delay)  # So anywhere in a step.
            process.send_signal(number)
            break
        time.sleep(0.002)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def test_interrupted_runs_end_with_the_same_bits(
    uninterrupted, recipe_path, data_dir, tmp_path
):
    out = tmp_path / "run"
    arguments = command(recipe_path, data_dir, out)
    status, errors = interrupt(arguments, newest, out, signal.SIGKILL, 0.07)
    assert status == -signal.SIGKILL, errors

    # Asked to stop, it writes a checkpoint; here it has no other reason to.
    before, arguments = newest(out), [*arguments, "--checkpoint-every", "1000"]
    status, errors = interrupt(arguments, logged, out, signal.SIGTERM, 0.01)
    assert status == 128 + signal.SIGTERM and "Traceback" not in errors, errors
    assert newest(out) > before
    stopped = f"Stopped by SIGTERM. The checkpoint of step {newest(out)} "
    assert errors.splitlines()[-1].startswith(f"training.train: {stopped}")

    result = run(recipe_path, data_dir, out)
    assert result.returncode == 0, result.stderr
    arrays, rows = content(out)
    expected_arrays, expected_rows = content(uninterrupted)
    assert rows == expected_rows
    assert arrays.keys() == expected_arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected_arrays[name], err_msg=name)
    assert json.loads((out / "run.json").read_text())["starts"] == 3
    assert not list(out.glob(".part*"))


def test_a_run_leaves_all_that_it_promises(uninterrupted):
    names = {path.name for path in uninterrupted.iterdir()}
    assert names >= {
        *("recipe.py", "run.json", "log.csv", "curve.svg", "checkpoint-00000080.npz"),
        *("best.weights.h5", "last.weights.h5", "code.zip"),
    }
    assert list(uninterrupted.glob("events.out.tfevents.*"))
    facts = json.loads((uninterrupted / "run.json").read_text())
    assert facts["settings"]["eval_split"] == "holdout"
    assert facts["settings"]["train_examples"] == 400
    (start,) = facts["placements"]
    assert start["machine"]["keras"] and start["commit"] and "dirty" in start
    assert "<svg" in (uninterrupted / "curve.svg").read_text()
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


def test_a_finished_run_is_left_alone(uninterrupted, recipe_path, data_dir, capsys):
    before = content(uninterrupted)
    assert outcome(recipe_path, data_dir, uninterrupted) == (0, "")
    assert "error" in capsys.readouterr().out
    after = content(uninterrupted)
    assert after[1] == before[1]


def test_another_recipe_in_the_same_folder(uninterrupted, recipe_path, data_dir):
    status, errors = outcome(recipe_path, data_dir, uninterrupted, "--seed", "3")
    assert status == 2 and "Received: seed=3, there 0." in errors


def test_a_recipe_with_other_values_or_code_is_refused(
    uninterrupted, recipe_path, data_dir, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    text = recipe_path.read_text()
    for old, new, message in (
        ("Linear(0.02", "Linear(0.03", "learning_rate.peak=0.03, there 0.02"),
        ("crop(4)", "crop(3)", "padding=3, there 4"),
        ('"width": 0.04', '"width": 0.05', "model_arguments.width=0.05, there 0.04"),
        ("use_ema=True", "use_ema=False", "optimizer.use_ema=False, there True"),
        ("recipe = Recipe(", "one = 1\nrecipe = Recipe(", "changes in recipe.py."),
    ):
        recipe_path.with_name("other.py").write_text(text.replace(old, new))
        with pytest.raises(UserError, match=re.escape(message)):
            resume(recipe_path.with_name("other.py"), data_dir, out)
    # A change that does not matter, and one that is let through.
    commented = f'"""Another docstring."""\n# And a comment.\n{text}'
    recipe_path.with_name("other.py").write_text(commented)
    resume(recipe_path.with_name("other.py"), data_dir, out)
    recipe_path.with_name("other.py").write_text(f"one = 1\n{text}")
    resume(recipe_path.with_name("other.py"), data_dir, out, accept_code_changes=True)


def test_a_module_that_the_recipe_imports_is_its_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine.py").write_text("from others import rate\n")
    (tmp_path / "others.py").write_text("rate = 1\n")
    recipe = tmp_path / "recipe.py"
    recipe.write_text("def learning_rate(steps):\n    from mine import rate\n")
    before = dependencies.read_sources(recipe)
    assert {"mine.py", "others.py", "training/engine/steps.py"} <= before.keys()
    assert not before.keys() & {"training/tables.py", "training/engine/runlog.py"}
    dependencies.keep(tmp_path, before, start=1)
    (tmp_path / "others.py").write_text("# A comment.\nrate = 1\n")
    now = dependencies.read_sources(recipe)
    assert provenance.check_same_code(now, tmp_path, accept=False) == []
    (tmp_path / "others.py").write_text("rate = 2\n")
    now = dependencies.read_sources(recipe)
    with pytest.raises(UserError, match="changes in others.py"):
        provenance.check_same_code(now, tmp_path, accept=False)
    assert provenance.check_same_code(now, tmp_path, accept=True) == ["others.py"]
    dependencies.keep(tmp_path, now, start=12)
    assert provenance.check_same_code(now, tmp_path, accept=False) == []


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("epochs=4", "epoch=4", "line 7, TypeError: .*'epoch'"),
        ("recipe = Recipe(", "recipe = = Recipe(", "line 7, SyntaxError"),
        ("epochs=4", "epochs=0", "epochs to be an integer of 1 or more.*epochs=0"),
        ("batch_size=20", "batch_size='20'", "Received: batch_size='20'"),
        ('"width"', '"widht"', "arguments that it takes.*'widht'"),
        ("ELUNet11", "ELUNet12", "Received: 'ELUNet12'"),
    ],
)
def test_a_recipe_that_cannot_be(old, new, message, recipe_path, tmp_path, monkeypatch):
    (tmp_path / "tiny.py").write_text(recipe_path.read_text().replace(old, new))
    status, errors = outcome(tmp_path / "tiny.py", "x", "y")
    assert status == 2 and re.search(message, errors), errors
    assert len(errors.splitlines()) == 1


def test_an_error_in_the_users_function_keeps_its_traceback(
    recipe_path, data_dir, tmp_path
):
    text = recipe_path.read_text()
    (tmp_path / "tiny.py").write_text(
        "def mine(schedule):\n    raise ValueError('mine')\n"
        + text.replace("ConvMuon(schedule, ", "mine(schedule, ").replace(
            "mine(schedule, use_ema=True, ema_momentum=0.9)", "mine(schedule)"
        )
    )
    with pytest.raises(ValueError, match="mine"):
        outcome(tmp_path / "tiny.py", data_dir, tmp_path / "run")


def test_a_second_process_in_the_same_folder(uninterrupted, recipe_path, data_dir):
    with (uninterrupted / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        status, errors = outcome(recipe_path, data_dir, uninterrupted)
    assert status == 75 and "Another process is using it" in errors


def test_what_was_lost_between_the_last_checkpoint_and_the_end_is_made(
    uninterrupted, recipe_path, data_dir, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    facts = json.loads((out / "run.json").read_text())
    assert facts["finished"]
    (out / "run.json").write_text(json.dumps(facts | {"finished": False}))
    for file in (out / "curve.svg", *out.glob("events*")):
        file.unlink()
    with pytest.raises(SystemExit, match="which was stopped after step 80"):
        publish.main([str(out), "--name", "x.y", "--data", str(data_dir)])
    assert outcome(recipe_path, data_dir, out) == (0, "")
    assert (out / "curve.svg").is_file() and list(out.glob("events*"))
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
    assert provenance._version() == {"commit": None, "dirty": None}


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
        return None

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
        optimizer=keras.optimizers.SGD,
        learning_rate=float,
    )
    write("train", ("apple", "grass", "sky"))
    write("test", ("Sky", "apple", "grass"))
    with pytest.raises(ValueError, match="does not know: Sky"):
        inputs.load_data(recipe, tmp_path)
    shutil.rmtree(tmp_path / "test")
    write("test", ("apple", "grass", "sky"), (8, 6))
    with pytest.raises(ValueError, match=r"\(6, 8, 3\) to evaluate on"):
        inputs.load_data(recipe, tmp_path)


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
    last, before = find(out)
    damage(last)
    status, errors = outcome(recipe_path, data_dir, out)
    assert status == 0, errors
    assert f"{last.name} to be a checkpoint. It is damaged" in errors
    assert "from step 75 of 80" in errors
    assert content(out)[1] == content(uninterrupted)[1]
    for path in (last, before):
        damage(path)
    status, errors = outcome(recipe_path, data_dir, out)
    assert status == 2 and "All are damaged" in errors
    assert find(out) == [last, before]


def test_a_folder_that_cannot_be_written(
    uninterrupted, recipe_path, data_dir, tmp_path
):
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    last, before = find(out)
    last.unlink()
    whole = before.read_bytes()
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
    assert f"of step {int(before.stem[11:])} in {out} is whole" in last_line
    assert find(out) == [before] and before.read_bytes() == whole


def test_missing_data_and_recipe_are_named(recipe_path, tmp_path):
    status, errors = outcome(recipe_path, tmp_path / "nowhere", tmp_path / "run")
    assert status == 2 and "nowhere" in errors
    status, errors = outcome(tmp_path / "no.py", tmp_path, tmp_path / "run")
    assert status == 2 and "training/recipes/elunet11_cifar100.py" in errors
