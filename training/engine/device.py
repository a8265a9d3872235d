"""What the machine is, and the settings that are fastest on it."""

import os
import pathlib
import platform
import re
from typing import Any

from elu_zoo._environment import set_defaults

set_defaults()


def split_cpu(count: int) -> None:
    """Presents the CPU to the backend as several devices.

    Must be called before anything uses a device.

    Args:
        count: Number of devices.
    """
    import keras

    if keras.backend.backend() == "jax":
        import jax

        jax.config.update("jax_num_cpu_devices", count)
    else:
        import tensorflow as tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * count,
        )


def accelerator() -> str | None:
    """Returns the name of the first accelerator, or `None` if there is only a CPU."""
    gpu = _gpu()
    return gpu and gpu[0]


def _gpu() -> tuple[str, Any] | None:
    """Name and compute capability of the first accelerator, or `None`."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        device = jax.devices()[0]
        if device.platform == "cpu":
            return None
        # Only GPUs have a compute capability; TPUs have bfloat16.
        capability = (8, 0) if device.platform == "tpu" else None
        return device.device_kind, getattr(device, "compute_capability", capability)
    import tensorflow as tf

    devices = tf.config.list_physical_devices("GPU")
    if not devices:
        return None
    details = tf.config.experimental.get_device_details(devices[0])
    return details.get("device_name", "GPU"), details.get("compute_capability")


def _has_bfloat16(capability: Any) -> bool:
    """Whether a GPU computes in bfloat16: NVIDIA's do from compute capability 8.0."""
    if isinstance(capability, str):
        number = re.fullmatch(r"(\d+)\.(\d+)", capability)
        capability = number and tuple(map(int, number.groups()))
    return capability is not None and tuple(capability) >= (8, 0)


def default_precision() -> str:
    """Returns `"mixed_bfloat16"` where it is the faster one, else `"float32"`."""
    import keras

    gpu = _gpu()
    if gpu:
        fast = _has_bfloat16(gpu[1])
    elif keras.backend.backend() == "jax":
        fast = False  # On a CPU its bfloat16 convolutions are slower than float32.
    else:
        fast = not {"avx512_bf16", "amx_bf16"}.isdisjoint(_cpu("flags").split())
    return "mixed_bfloat16" if fast else "float32"


def default_jit() -> bool:
    """Returns whether to compile the step with XLA; on a CPU oneDNN is faster."""
    return accelerator() is not None


def keep_compiled(folder: str | pathlib.Path) -> None:
    """Makes JAX keep compiled programs in a folder, unless it has one already.

    Args:
        folder: Folder of the compiled programs.
    """
    import jax

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(folder))


def description() -> dict[str, Any]:
    """Returns facts to keep with a run: processor, accelerator and versions."""
    import keras
    import numpy as np

    facts = {
        "processor": _cpu("model name") or platform.processor(),
        "processor_family_model": f"{_cpu('cpu family')}/{_cpu('model')}",
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "accelerator": accelerator(),
        "python": platform.python_version(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "numpy": np.__version__,
    }
    backend = __import__(keras.backend.backend())
    facts[keras.backend.backend()] = backend.__version__
    return facts


def _cpu(key: str) -> str:
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return ""
    for line in cpuinfo.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
