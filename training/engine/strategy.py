"""Where a run computes: one device, the devices of a machine, or many machines."""

import contextlib
import dataclasses
import json
import os
import re

NAMES = ("none", "mirrored", "multi_worker", "data_parallel")
PORT = 12355


@dataclasses.dataclass(frozen=True)
class Placement:
    """The devices of a run and this process's part in it.

    Attributes:
        name: One of `NAMES`.
        strategy: `tf.distribute.Strategy`; on JAX `keras.distribution.DataParallel`, or
            `None` on one device.
        workers: Number of processes.
        worker: Number of this process, from 0; 0 is the chief, which writes the files.
        replicas: Number of devices of all processes together.
    """

    name: str
    strategy: object = None
    workers: int = 1
    worker: int = 0
    replicas: int = 1

    @property
    def is_chief(self):
        """Whether this process writes the run's files."""
        return self.worker == 0

    def scope(self):
        """Context in which models and optimizers are made."""
        if hasattr(self.strategy, "scope"):
            return self.strategy.scope()
        return contextlib.nullcontext()

    def check_equal(self, number, what):
        """Waits for all workers and makes sure that they have the same number.

        Args:
            number: Integer below 2⁵³.
            what: What it is, for the error message.

        Raises:
            RuntimeError: If they have not.
        """
        if self.workers == 1:
            return
        mean = self._mean(number)
        if mean != number:
            raise RuntimeError(
                f"Expected all workers to have the same {what}. Received: {number} "
                f"here, {mean} on average."
            )

    def any(self, value):
        """Whether a value is true for any worker. Waits for all of them."""
        return self._mean(float(value)) > 0 if self.workers > 1 else bool(value)

    def _mean(self, number):
        import tensorflow as tf

        def mean():
            context = tf.distribute.get_replica_context()
            return context.all_reduce("MEAN", tf.constant(number, "float64"))

        values = self.strategy.experimental_local_results(self.strategy.run(mean))
        return float(values[0])

    def separate_seeds(self, model):
        """Lets each replica drop other units; the first replica's seeds stay."""
        if self.replicas == 1 or not hasattr(self.strategy, "run"):
            return
        import tensorflow as tf

        states = [
            v.value for v in model.variables if v.path.endswith("generator_state")
        ]

        def shift():
            number = tf.distribute.get_replica_context().replica_id_in_sync_group
            for state in states:
                offset = tf.stack([tf.cast(number, state.dtype) * 7919, 0])
                state.assign(state + tf.cast(offset, state.dtype))

        self.strategy.run(shift)


def make_placement(name=None, environ=os.environ):
    """The placement of this process. To be called before anything else uses a device.

    Args:
        name: One of `NAMES`; by default `"multi_worker"` where the environment names
            several workers (see `find_cluster`), else by the number of devices.
        environ: Environment variables.

    Returns:
        A `Placement`.

    Raises:
        ValueError: If the name is none of these or does not fit the backend.
    """
    import keras

    backend = keras.backend.backend()
    fitting = {"tensorflow": NAMES[:3], "jax": ("none", "data_parallel")}[backend]
    if name is not None and name not in fitting:
        raise ValueError(
            f"Expected the strategy to be one of {list(fitting)}, those of Keras's "
            f"{backend} backend. Received: {name!r}"
        )
    if backend == "jax":
        return _jax_placement(name)
    return _tensorflow_placement(name, find_cluster(environ))


def _tensorflow_placement(name, cluster):
    import tensorflow as tf

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
        raise ValueError(
            "Expected the workers of strategy 'multi_worker' in TF_CONFIG, or in the "
            "environment of Slurm or Kubernetes; see docs/training.md. Received: "
            "none of them"
        )
    addresses, worker = cluster
    os.environ["TF_CONFIG"] = json.dumps(
        {
            "cluster": {"worker": addresses},
            "task": {"type": "worker", "index": worker},
        }
    )
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    return Placement(
        name, strategy, len(addresses), worker, strategy.num_replicas_in_sync
    )


def _jax_placement(name):
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


def find_cluster(environ=os.environ):
    """The addresses of all workers and the number of this one.

    Looked for in this order:

    - `TF_CONFIG`, as TensorFlow and Kubeflow's training operator set it;
    - Slurm: `SLURM_NTASKS` tasks of `srun`;
    - a Kubernetes Indexed Job: `JOB_COMPLETION_INDEX`, set by Kubernetes, with
      `TRAINING_WORKERS` and `TRAINING_SERVICE`, the number of pods and the name of
      their headless service, set in the manifest.

    Args:
        environ: Environment variables.

    Returns:
        `(addresses, index)`, or `None` without such an environment or with one worker.

    Raises:
        ValueError: If the environment contradicts itself.

    Example:

    >>> find_cluster({
    ...     "JOB_COMPLETION_INDEX": "1", "HOSTNAME": "elunet-1",
    ...     "TRAINING_WORKERS": "2", "TRAINING_SERVICE": "elunet",
    ... })
    (['elunet-0.elunet:12355', 'elunet-1.elunet:12355'], 1)
    """
    if "TF_CONFIG" in environ:
        addresses, index = _from_tf_config(environ["TF_CONFIG"])
    elif int(environ.get("SLURM_STEP_NUM_TASKS", environ.get("SLURM_NTASKS", 1))) > 1:
        addresses, index = _from_slurm()
    elif "JOB_COMPLETION_INDEX" in environ and "TRAINING_WORKERS" in environ:
        addresses, index = _from_kubernetes(environ)
    else:
        return None
    if not 0 <= index < len(addresses):
        raise ValueError(
            f"Expected the number of this worker to be below {len(addresses)}, the "
            f"number of workers. Received: {index}"
        )
    return (addresses, index) if len(addresses) > 1 else None


def _from_tf_config(text):
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        addresses = list(cluster["worker"])
        kind, index = task["type"], int(task["index"])
        chief = list(cluster.get("chief", []))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            'Expected TF_CONFIG such as {"cluster": {"worker": ["host0:12355", '
            '"host1:12355"]}, "task": {"type": "worker", "index": 0}}. '
            f"Received: {text!r}"
        ) from error
    if kind == "worker":
        index += len(chief)
    return chief + addresses, index


def _from_slurm():
    import tensorflow as tf

    # One task a machine. Slurm shows it its GPUs; the resolver would ask nvidia-smi.
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=PORT, gpus_per_node=1, gpus_per_task=1, auto_set_gpu=False
    )
    addresses = resolver.cluster_spec().as_dict()["worker"]
    return addresses, resolver.task_id


def _from_kubernetes(environ):
    count, index = (
        int(environ["TRAINING_WORKERS"]),
        int(environ["JOB_COMPLETION_INDEX"]),
    )
    job = re.sub(rf"-{index}$", "", environ["HOSTNAME"])
    service = environ["TRAINING_SERVICE"]
    return [f"{job}-{i}.{service}:{PORT}" for i in range(count)], index
