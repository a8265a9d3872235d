"""Where a run computes: one device, the devices of a machine, or many machines."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from elu_zoo.errors import UserError
from training.engine.rendezvous import wait_for_all

if TYPE_CHECKING:
    import keras

# The addresses of all workers and the number of this one.
Cluster = tuple[list[str], int]

NAMES = ("none", "mirrored", "multi_worker", "data_parallel")
PORT = 12355


@dataclasses.dataclass(frozen=True)
class Placement:
    """The devices of a run, and this process's part in it.

    Attributes:
        name: One of `NAMES`.
        strategy: A `tf.distribute.Strategy`; on JAX a
            `keras.distribution.DataParallel`, or `None` on one device.
        workers: Number of processes.
        worker: Number of this process, from 0; 0 is the chief, which writes the files.
        replicas: Number of devices of all processes together.
    """

    name: str
    strategy: Any = None
    workers: int = 1
    worker: int = 0
    replicas: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the run's files."""
        return self.worker == 0

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """Returns the context in which to make models and optimizers."""
        if hasattr(self.strategy, "scope"):
            return self.strategy.scope()
        return contextlib.nullcontext()

    def check_equal(self, number: float, what: str) -> None:
        """Waits for all workers and checks that they have the same number.

        Args:
            number: Integer below 2⁵³.
            what: Meaning of the number, for the error message.

        Raises:
            RuntimeError: If the numbers differ.
        """
        if self.workers == 1:
            return
        mean = self._mean(number)
        if mean != number:
            raise RuntimeError(
                f"Expected all workers to have the same {what}. Received: {number} "
                f"here, {mean} on average."
            )

    def any(self, value: bool) -> bool:
        """Waits for all workers and returns whether a value is true for any of them.

        Args:
            value: The value of this worker.

        Returns:
            The same bool for all workers.
        """
        return self._mean(float(value)) > 0 if self.workers > 1 else bool(value)

    def _mean(self, number: float) -> float:
        import tensorflow as tf

        def mean() -> Any:
            context = tf.distribute.get_replica_context()
            return context.all_reduce("MEAN", tf.constant(number, "float64"))

        values = self.strategy.experimental_local_results(self.strategy.run(mean))
        return float(values[0])

    def separate_seeds(self, model: keras.Model) -> None:
        """Gives the dropout layers of each replica seeds of their own.

        Args:
            model: Model made in `scope`; the first replica's seeds are unchanged.
        """
        if self.replicas == 1 or not hasattr(self.strategy, "run"):
            return
        import tensorflow as tf

        states = [
            v.value for v in model.variables if v.path.endswith("generator_state")
        ]

        def shift() -> None:
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            for state in states:
                offset = tf.stack([tf.cast(number, state.dtype) * 7919, 0])
                state.assign(state + tf.cast(offset, state.dtype))

        self.strategy.run(shift)


def make_placement(
    name: str | None = None, environ: Mapping[str, str] = os.environ
) -> Placement:
    """Makes the placement of this process, before anything else uses a device.

    Args:
        name: One of `NAMES`; by default `"multi_worker"` if the environment names
            several workers (see `find_cluster`), else by the number of devices.
        environ: Environment variables.

    Returns:
        The placement.

    Raises:
        UserError: If there is no such strategy or the backend does not have it, or if
            the environment contradicts itself.
    """
    import keras

    backend = keras.backend.backend()
    fitting = {"tensorflow": NAMES[:3], "jax": ("none", "data_parallel")}[backend]
    if name is not None and name not in fitting:
        raise UserError(
            f"Expected the strategy to be one of {list(fitting)}, those of Keras's "
            f"{backend} backend. Received: {name!r}"
        )
    if backend == "jax":
        return _jax_placement(name)
    cluster = find_cluster(environ) if name in (None, "multi_worker") else None
    return _tensorflow_placement(name, cluster)


def _tensorflow_placement(name: str | None, cluster: Cluster | None) -> Placement:
    import tensorflow as tf

    if cluster and len(cluster[0]) == 1:
        name = cluster = None
    if name is None:
        several = len(tf.config.list_logical_devices("GPU")) > 1 if not cluster else 0
        name = "multi_worker" if cluster else "mirrored" if several else "none"
    if name == "none":
        return Placement(name, tf.distribute.get_strategy())
    if name == "mirrored":
        devices = tf.config.list_logical_devices("GPU")
        devices = devices or tf.config.list_logical_devices("CPU")
        strategy = tf.distribute.MirroredStrategy([device.name for device in devices])
        return Placement(name, strategy, replicas=strategy.num_replicas_in_sync)
    if not cluster:
        raise UserError(
            "Expected the workers of strategy 'multi_worker' in TF_CONFIG, or in the "
            "environment of srun or Kubernetes; see docs/training.md. Received: none "
            "of these"
        )
    addresses, worker = cluster
    wait_for_all(addresses, worker)
    strategy = tf.distribute.MultiWorkerMirroredStrategy(
        cluster_resolver=tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec({"worker": addresses}),
            task_type="worker",
            task_id=worker,
            rpc_layer="grpc",
        )
    )
    return Placement(
        name, strategy, len(addresses), worker, strategy.num_replicas_in_sync
    )


def _jax_placement(name: str | None) -> Placement:
    import jax
    import keras

    devices = jax.devices()
    if name is None:
        name = "data_parallel" if len(devices) > 1 else "none"
    if name == "none":
        return Placement(name)
    strategy = keras.distribution.DataParallel(
        devices=keras.distribution.list_devices(devices[0].platform)
    )
    keras.distribution.set_distribution(strategy)
    return Placement(name, strategy, replicas=len(devices))


def several_workers(name: str | None, environ: Mapping[str, str]) -> bool:
    """Returns whether `make_placement` makes this process one of several workers.

    Args:
        name: As for `make_placement`.
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
