"""Jobs whose workers are killed: a short version of faults.py, and the long one."""

import importlib.util
import json
import signal
import time

import launch
import numpy as np
import pytest
from faults import RECIPE, run_faults

from training.engine.checkpoint import find

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow") is None, reason="needs tensorflow"
)


def changed(recipe, *changes):
    for old, new in changes:
        assert old in recipe
        recipe = recipe.replace(old, new)
    return "import keras\n" + recipe


def test_a_job_whose_workers_are_killed_ends_with_the_same_bits(tmp_path):
    # Muon takes long to compile, six times here.
    sgd = ("ConvMuon(schedule, ", "keras.optimizers.SGD(schedule, momentum=0.9, ")
    recipe = changed(RECIPE, sgd)
    run_faults(tmp_path, workers=2, kills=1, epochs=4, delay=0.2, recipe=recipe)


@pytest.mark.slow
def test_another_number_of_workers_after_a_restart(data_dir, tmp_path):
    # Without dropout, whose masks depend on the number of devices, and with an
    # optimizer that does not blow up rounding errors.
    recipe = changed(
        RECIPE.format(epochs=1),
        ('"dropout": 0.1', '"dropout": 0'),
        ("ConvMuon(schedule, ", "keras.optimizers.SGD(schedule, "),
    )
    (tmp_path / "recipe.py").write_text(recipe)

    def start(name, workers):
        logs = tmp_path / name
        logs.mkdir(exist_ok=True)
        more = ["--precision", "float32"]
        command = launch.command(tmp_path / "recipe.py", data_dir, logs / "run", *more)
        return logs, launch.start(command, logs, workers)

    logs, processes = start("one", 1)
    launch.finish(processes, logs)
    expected = launch.arrays(logs / "run")
    logs, (process,) = start("changed", 1)
    while not find(logs / "run") and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    logs, processes = start("changed", 2)
    launch.finish(processes, logs)
    placements = json.loads((logs / "run/run.json").read_text())["placements"]
    assert [p["workers"] for p in placements] == [1, 2]
    assert placements[0]["from_step"] == 0 < placements[1]["from_step"] < 25
    for name, array in launch.arrays(logs / "run").items():
        np.testing.assert_allclose(array, expected[name], atol=2e-6, err_msg=name)


@pytest.mark.slow
def test_twenty_kills(tmp_path):
    run_faults(tmp_path, workers=2, kills=20, epochs=60)
