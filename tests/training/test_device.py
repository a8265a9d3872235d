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
