import json
import os
import pathlib
import signal
import socket
import subprocess
import threading
import time

import pytest
from launch import command, free_ports

from elu_zoo.errors import UserError
from training.engine.cluster import find_cluster
from training.engine.rendezvous import wait_for_all
from training.engine.strategy import make_placement

ROOT = pathlib.Path(__file__).parents[2]
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


@pytest.mark.parametrize(
    "text",
    [
        *("", "[1]", '{"cluster": {"worker": "host"}, "task": {}}'),
        json.dumps(CONFIG | {"cluster": {"worker": ["a:1", "b"]}}),
        json.dumps(CONFIG | {"cluster": {"worker": ["a:1", 2]}}),
    ],
)
def test_a_tf_config_that_is_none(text):
    with pytest.raises(UserError, match="Expected TF_CONFIG such as"):
        find_cluster({"TF_CONFIG": text})


@pytest.mark.parametrize("text", ["{}", '{"cluster": {}, "task": {}}'])
def test_an_empty_tf_config_is_no_cluster(text):
    assert find_cluster({"TF_CONFIG": text}) is None


@pytest.mark.parametrize(
    "kind, index, message",
    [
        ("evaluator", 0, "Received: a task of type 'evaluator'"),
        ("ps", 0, "Received: a task of type 'ps'"),
        ("master", 0, "Received: a task of type 'master'"),
        ("worker", 2, "Received: worker 2 of"),
    ],
)
def test_tasks_that_have_no_place(kind, index, message):
    config = CONFIG | {"task": {"type": kind, "index": index}}
    with pytest.raises(UserError, match=message):
        find_cluster({"TF_CONFIG": json.dumps(config)})


@pytest.mark.parametrize("kind", ["ps", "master"])
def test_workers_beside_tasks_that_have_no_place(kind):
    config = CONFIG | {"cluster": CONFIG["cluster"] | {kind: ["c:1"]}}
    with pytest.raises(UserError, match=f"'{kind}'"):
        find_cluster({"TF_CONFIG": json.dumps(config)})


@pytest.mark.parametrize(
    "nodes, tasks, task, node, local, expected",
    [
        ("node[07-10]", "1(x4)", 2, 2, 0, [f"node{i:02d}:12355" for i in range(7, 11)]),
        ("node[1-2]-ib", "1(x2)", 1, 1, 0, ["node1-ib:12355", "node2-ib:12355"]),
        (
            *("rack[0-1]n[1-2]", "1(x4)", 3, 3, 0),
            [f"rack{r}n{n}:12355" for r in (0, 1) for n in (1, 2)],
        ),
        ("b,a1", "2,1", 1, 0, 1, ["b:12355", "b:12356", "a1:12355"]),
        # Slurm's order, such as that of its switches, is not that of the names.
        ("b[03,1-2]", "1(x3)", 1, 1, 0, ["b03:12355", "b1:12355", "b2:12355"]),
    ],
)
def test_slurm(nodes, tasks, task, node, local, expected, monkeypatch):
    # The function reads its argument, not the process's variables.
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    environ = {
        "SLURM_STEP_NUM_TASKS": str(len(expected)),
        "SLURM_PROCID": str(task),
        "SLURM_NODEID": str(node),
        "SLURM_LOCALID": str(local),
        "SLURM_STEP_NODELIST": nodes,
        "SLURM_STEP_TASKS_PER_NODE": tasks,
    }
    assert find_cluster(environ) == (expected, task)
    with pytest.raises(UserError, match="in blocks"):
        find_cluster(environ | {"SLURM_PROCID": "0"})
    for wrong in (
        {"SLURM_STEP_NODELIST": "a[1-"},
        {"SLURM_STEP_TASKS_PER_NODE": "many"},
        {"SLURM_NODEID": "9"},
        {"SLURM_PROCID": "99"},
    ):
        with pytest.raises(UserError, match="that srun sets"):
            find_cluster(environ | wrong)


def test_slurm_without_srun_is_no_cluster():
    assert find_cluster({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}) is None
    assert find_cluster({"SLURM_STEP_NUM_TASKS": "1"}) is None


def test_one_process_is_one_process():
    pytest.importorskip("tensorflow")
    config = {"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}
    for name in (None, "multi_worker"):
        assert make_placement(name, {"TF_CONFIG": json.dumps(config)}).workers == 1


def test_no_environment_is_read_for_one_device():
    pytest.importorskip("tensorflow")
    assert make_placement("none", {"TF_CONFIG": "nonsense"}).workers == 1


@pytest.mark.parametrize("number, index", [(signal.SIGINT, 0), (signal.SIGTERM, 1)])
def test_signals_end_a_worker_that_waits_for_the_others(number, index, tmp_path):
    pytest.importorskip("tensorflow")
    with socket.create_server(("localhost", 0)) as other:
        (port,) = free_ports(1)
        ports = [port, port + 1] if index == 0 else [other.getsockname()[1], port]
        hosts = [f"localhost:{port}" for port in ports]
        config = {"cluster": {"worker": hosts}, "task": {"type": "worker"}}
        config["task"]["index"] = index
        process = subprocess.Popen(
            command("training/recipes/elunet11_cifar100.py", tmp_path, tmp_path),
            cwd=ROOT,
            env=os.environ | {"TF_CONFIG": json.dumps(config)},
            stderr=subprocess.PIPE,
            text=True,
        )
        if index:  # It comes to the chief that this test plays.
            other.accept()[0].recv(1)
        while index == 0 and not reachable(port) and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=10)
    assert process.returncode == 128 + number, errors
    # The backend may write a line of its own after it.
    assert f"Stopped by {signal.Signals(number).name}." in errors


def reachable(port):
    with socket.socket() as client:
        return client.connect_ex(("localhost", port)) == 0


def test_all_workers_wait_for_the_last():
    hosts = [f"localhost:{port}" for port in free_ports(4)]
    here = []

    def work(index):
        wait_for_all(hosts, index)
        here.append(index)

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(3)]
    for thread in threads[:2]:
        thread.start()
    # One that leaves again, or says something else, does not count.
    for said in (b"2\n", b"GET /\n"):
        while not reachable(int(hosts[0][10:])):
            time.sleep(0.05)
        with socket.create_connection(("localhost", int(hosts[0][10:]))) as client:
            client.sendall(said)
            time.sleep(0.3)
    time.sleep(0.5)
    assert here == []
    threads[2].start()
    work(3)
    for thread in threads:
        thread.join(10)
    assert sorted(here) == [0, 1, 2, 3]


def test_kubernetes_indexed_job():
    environ = {
        "JOB_COMPLETION_INDEX": "1",
        "HOSTNAME": "train-elunet-1",
        "TRAINING_WORKERS": "3",
        "TRAINING_SERVICE": "elunet",
    }
    hosts = [f"train-elunet-{i}.elunet:12355" for i in range(3)]
    assert find_cluster(environ) == (hosts, 1)
    with pytest.raises(ValueError, match="JOB_COMPLETION_INDEX=3"):
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
