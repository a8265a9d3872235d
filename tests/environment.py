"""The environment of processes that tests start."""

import os


def on_backend(name):
    """The environment of this process with another Keras backend."""
    environ = os.environ | {"KERAS_BACKEND": name}
    if name == "jax":
        # Else most of the time of a short run goes into optimizing machine code.
        environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"
    return environ


def float64_on_jax():
    """Context in which JAX computes in float64, by its new name or its old one."""
    import jax

    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    return jax.experimental.enable_x64()
