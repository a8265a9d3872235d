"""The workers of a run, as the environment names them."""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from elu_zoo.errors import UserError

# The addresses of all workers and the number of this one.
Cluster = tuple[list[str], int]

PORT = 12355


def several_workers(name: str | None, environ: Mapping[str, str]) -> bool:
    """Returns whether a strategy makes this process one of several workers.

    Args:
        name: Name of the strategy; by default the environment decides.
        environ: Environment variables.

    Returns:
        A bool.

    Raises:
        UserError: If the environment contradicts itself.
    """
    if name not in (None, "multi_worker"):
        return False
    cluster = find_cluster(environ)
    return cluster is not None and len(cluster[0]) > 1


def find_cluster(environ: Mapping[str, str] = os.environ) -> Cluster | None:
    """Finds the addresses of all workers and the number of this one.

    The first of these that the environment has:

    - `TF_CONFIG`, as TensorFlow and Kubeflow's training operator set it, with tasks of
      type `"chief"` and `"worker"`;
    - Slurm's variables, which `srun` sets for each of its tasks; they must be
      distributed in blocks, the default;
    - a Kubernetes Indexed Job: `JOB_COMPLETION_INDEX`, set by Kubernetes, with
      `TRAINING_WORKERS` and `TRAINING_SERVICE`, the number of pods and the name of
      their headless service, set by the manifest.

    Args:
        environ: Environment variables.

    Returns:
        `(addresses, index)`, or `None` if the environment has none of these.

    Raises:
        UserError: If the environment contradicts itself.

    Example:

    >>> find_cluster({
    ...     "JOB_COMPLETION_INDEX": "1", "HOSTNAME": "elunet-1",
    ...     "TRAINING_WORKERS": "2", "TRAINING_SERVICE": "elunet",
    ... })
    (['elunet-0.elunet:12355', 'elunet-1.elunet:12355'], 1)
    """
    if "TF_CONFIG" in environ:
        return _from_tf_config(environ["TF_CONFIG"])
    if "SLURM_STEP_NUM_TASKS" in environ:
        return _from_slurm(environ)
    if "JOB_COMPLETION_INDEX" in environ and "TRAINING_WORKERS" in environ:
        return _from_kubernetes(environ)
    return None


def _from_tf_config(text: str) -> Cluster | None:
    try:
        config = json.loads(text)
        cluster = config.get("cluster")
        if not cluster:
            return None
        tasks = [
            (kind, index, address)
            for kind in ("chief", "worker")
            for index, address in enumerate(_addresses(cluster.get(kind, [])))
        ]
        kind, index = config["task"]["type"], int(config["task"]["index"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            'Expected TF_CONFIG such as {"cluster": {"worker": ["host0:12355", '
            '"host1:12355"]}, "task": {"type": "worker", "index": 0}}. '
            f"Received: {text!r}"
        ) from error
    # An evaluator computes apart from the others.
    if kind not in ("chief", "worker") or {*cluster} - {"chief", "worker", "evaluator"}:
        raise UserError(
            "Expected TF_CONFIG to have only tasks of type 'chief' and 'worker'; "
            "workers evaluate and sum the gradients themselves. Received: a task of "
            f"type {kind!r} of {sorted(cluster)}"
        )
    numbers = [task[:2] for task in tasks]
    if (kind, index) not in numbers:
        raise UserError(
            "Expected the task of TF_CONFIG to be one of its cluster. Received: "
            f"{kind} {index} of {numbers}"
        )
    return [address for *_, address in tasks], numbers.index((kind, index))


def _addresses(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise TypeError("not a list of addresses")
    if not all(re.fullmatch(r".+:\d+", address) for address in value):
        raise ValueError("an address without a port")
    return value


def _from_slurm(environ: Mapping[str, str]) -> Cluster | None:
    count = _number(environ, "SLURM_STEP_NUM_TASKS")
    if count == 1:
        return None
    try:
        nodes = expand_nodes(environ["SLURM_STEP_NODELIST"])
        tasks = _tasks_per_node(environ["SLURM_STEP_TASKS_PER_NODE"])
        places = [
            (node, local)
            for node, many in zip(nodes, tasks, strict=True)
            for local in range(many)
        ]
        index = _number(environ, "SLURM_PROCID")
        here = (nodes[int(environ["SLURM_NODEID"])], int(environ["SLURM_LOCALID"]))
        place = places[index]
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            "Expected the variables SLURM_STEP_NODELIST, SLURM_STEP_TASKS_PER_NODE, "
            "SLURM_PROCID, SLURM_NODEID and SLURM_LOCALID that srun sets. Received: "
            f"{ {k: v for k, v in environ.items() if k.startswith('SLURM_')} }"
        ) from error
    if len(places) != count or place != here:
        raise UserError(
            "Expected srun to distribute the tasks over the nodes in blocks "
            f"(--distribution=block). Received: task {index} as {here}, of {places}"
        )
    return [f"{node}:{PORT + local}" for node, local in places], index


def expand_nodes(text: str) -> list[str]:
    """Expands one of Slurm's node lists.

    Args:
        text: The node list.

    Returns:
        The host names, in the order of the list.

    Raises:
        ValueError: If it is no node list.

    Example:

    >>> expand_nodes("login,node[1-2]-ib")
    ['login', 'node1-ib', 'node2-ib']
    """
    from ClusterShell.RangeSet import RangeSetException

    try:
        parts = re.split(r",(?![^\[]*\])", text)
        return [node for part in parts for node in _expand(part)]
    except RangeSetException as error:
        raise ValueError(str(error)) from error


def _expand(part: str) -> list[str]:
    """The host names of a part; ClusterShell would sort those of several ranges."""
    from ClusterShell.RangeSet import RangeSet

    before, bracket, rest = part.partition("[")
    if not bracket:
        return [before]
    ranges, closing, after = rest.partition("]")
    if not closing:
        raise ValueError(f"no node list: {part!r}")
    numbers = [number for text in ranges.split(",") for number in RangeSet(text)]
    return [f"{before}{number}{end}" for number in numbers for end in _expand(after)]


def _tasks_per_node(text: str) -> list[int]:
    """Numbers of tasks, such as [2, 2, 1] for `"2(x2),1"`."""
    counts = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not match:
            raise ValueError(f"no numbers of tasks: {text!r}")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _from_kubernetes(environ: Mapping[str, str]) -> Cluster:
    count = _number(environ, "TRAINING_WORKERS")
    index = _number(environ, "JOB_COMPLETION_INDEX")
    service = environ.get("TRAINING_SERVICE")
    if not service or not 0 <= index < count:
        raise UserError(
            "Expected TRAINING_SERVICE, and JOB_COMPLETION_INDEX below "
            f"TRAINING_WORKERS. Received: TRAINING_SERVICE={service!r}, "
            f"JOB_COMPLETION_INDEX={index}, TRAINING_WORKERS={count}"
        )
    job = re.sub(rf"-{index}$", "", environ.get("HOSTNAME", ""))
    return [f"{job}-{i}.{service}:{PORT}" for i in range(count)], index


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except (KeyError, ValueError) as error:
        raise UserError(
            f"Expected {name} to be a number. Received: {environ.get(name)!r}"
        ) from error
