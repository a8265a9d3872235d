"""Where a run computes: one device, the devices of a machine, or many machines."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from elu_zoo.errors import UserError
from training.engine.cluster import Cluster, find_cluster
from training.engine.rendezvous import wait_for_all

if TYPE_CHECKING:
    import keras

NAMES = ("none", "mirrored", "multi_worker", "data_parallel")


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
