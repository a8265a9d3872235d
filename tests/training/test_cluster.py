import json

import pytest

from training.engine.strategy import find_cluster, make_placement

CONFIG = {
    "cluster": {"worker": ["a:1", "b:2"]},
    "task": {"type": "worker", "index": 1},
}


def test_tf_config():
    environ = {"TF_CONFIG": json.dumps(CONFIG), "SLURM_NTASKS": "8"}
    assert find_cluster(environ) == (["a:1", "b:2"], 1)


def test_a_chief_of_tf_config_comes_first():
    config = {"cluster": {"chief": ["c:0"], "worker": ["a:1"]}}
    config["task"] = {"type": "worker", "index": 0}
    assert find_cluster({"TF_CONFIG": json.dumps(config)}) == (["c:0", "a:1"], 1)
    config["task"] = {"type": "chief", "index": 0}
    assert find_cluster({"TF_CONFIG": json.dumps(config)}) == (["c:0", "a:1"], 0)


@pytest.mark.parametrize("text", ["", "{}", '{"cluster": {}, "task": {}}', "[1]"])
def test_a_tf_config_that_is_none(text):
    with pytest.raises(ValueError, match="Expected TF_CONFIG such as"):
        find_cluster({"TF_CONFIG": text})


def test_slurm(monkeypatch):
    pytest.importorskip("tensorflow", reason="its resolver reads Slurm's variables")
    environ = {
        "SLURM_NTASKS": "4",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_PROCID": "2",
        "SLURM_STEP_NODELIST": "node[07-10]",
        "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
        "SLURM_NTASKS_PER_NODE": "1",
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    addresses, worker = find_cluster()
    assert addresses == [f"node{i:02d}:12355" for i in range(7, 11)] and worker == 2


def test_one_slurm_task_is_no_cluster():
    assert find_cluster({"SLURM_NTASKS": "1"}) is None


def test_kubernetes_indexed_job():
    environ = {
        "JOB_COMPLETION_INDEX": "1",
        "HOSTNAME": "train-elunet-1",
        "TRAINING_WORKERS": "3",
        "TRAINING_SERVICE": "elunet",
    }
    hosts = [f"train-elunet-{i}.elunet:12355" for i in range(3)]
    assert find_cluster(environ) == (hosts, 1)
    with pytest.raises(ValueError, match="below 3"):
        find_cluster(environ | {"JOB_COMPLETION_INDEX": "3"})


def test_multi_worker_needs_a_cluster(monkeypatch):
    pytest.importorskip("tensorflow")
    for name in (
        *("TF_CONFIG", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"),
        "JOB_COMPLETION_INDEX",
    ):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match="in TF_CONFIG"):
        make_placement("multi_worker")
    with pytest.raises(ValueError, match="Received: 'data_parallel'"):
        make_placement("data_parallel")
