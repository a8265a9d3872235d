import keras
import pytest

from training.engine import device


@pytest.mark.parametrize(
    "capability, precision",
    [
        *((x, "float32") for x in ((7, 5), "7.0", None, "gfx90a")),
        *((x, "mixed_bfloat16") for x in ((8, 0), (12, 0), "9.0")),
    ],
)
def test_bfloat16_only_on_gpus_that_have_it(capability, precision, monkeypatch):
    monkeypatch.setattr(device, "_gpu", lambda: ("GPU", capability))
    assert device.default_precision() == precision


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "avx2"])
def test_bfloat16_on_cpus_that_have_it_unless_jax_computes(flag, monkeypatch):
    monkeypatch.setattr(device, "_gpu", lambda: None)
    monkeypatch.setattr(device, "_cpu", lambda field: f"fpu {flag} sse")
    fast = flag != "avx2" and keras.backend.backend() == "tensorflow"
    assert device.default_precision() == ("mixed_bfloat16" if fast else "float32")


def test_the_capability_is_asked_of_the_backend(monkeypatch):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("needs the TensorFlow backend")
    import tensorflow as tf

    details = {"device_name": "T4", "compute_capability": (7, 5)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: ["gpu"])
    monkeypatch.setattr(
        tf.config.experimental, "get_device_details", lambda gpu: details
    )
    assert device.accelerator() == "T4"
    assert device.default_precision() == "float32"
