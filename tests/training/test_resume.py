import csv
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from training.engine.checkpoint import find

ROOT = pathlib.Path(__file__).parents[2]


def command(recipe_path, data_dir, out, *more):
    return [
        *(sys.executable, "-m", "training.train", str(recipe_path)),
        *("--data", str(data_dir), "--out", str(out), "--quiet"),
        *("--log-every", "5", "--checkpoint-every", "5", *more),
    ]


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
    assert not list(out.glob(".part*")) or kills


def test_a_run_leaves_all_that_it_promises(uninterrupted):
    names = {path.name.split(".17")[0] for path in uninterrupted.iterdir()}
    assert names >= {
        *("recipe.py", "run.json", "log.csv", "curve.png", "checkpoint-00000080.npz"),
        *("best.weights.h5", "last.weights.h5", "events.out.tfevents"),
    }
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
