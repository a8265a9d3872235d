"""The epoch that is kept, and runs that are resumed."""

import dataclasses
import pathlib

import keras
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from test_finetuning import two_colors

import elu_zoo
from elu_zoo import _stages
from elu_zoo.errors import UserError
from elu_zoo.image_files import Batches
from elu_zoo.records import attach_record


def new_model(**arguments):
    keras.utils.set_random_seed(0)
    return elu_zoo.ELUNet11(classes=2, width=0.05, **arguments)


def arrays(model):
    return [np.array(v) for v in model.variables]


def test_the_best_epoch_is_kept():
    model = new_model()
    images, labels = two_colors()
    # Held-out labels are the other way round: the longer it learns, the worse.
    history = elu_zoo.finetune(
        model,
        images,
        labels,
        (images, 1 - labels),
        epochs=(2, 3),
        learning_rate=(1e-2, 1e-3),
        verbose=0,
    )
    losses = history["val_calibrated_loss"]
    best = min([history.start["val_calibrated_loss"], *losses])
    found = _stages.measure(model, Batches(images, 1 - labels, 7))
    assert found["val_calibrated_loss"] < best + 1e-3
    assert found == {name: history.end[name] for name in history.start}
    assert best < losses[-1] and not history["kept"][-1]


def test_a_stage_that_diverges_is_undone():
    model = new_model()
    images, labels = two_colors()
    history = elu_zoo.finetune(
        *(model, images, labels, (images, labels)),
        epochs=(1, 1),
        learning_rate=(1e-3, 1e38),
        verbose=0,
    )
    assert not np.isfinite(history["val_loss"][1])
    assert history["kept"][1] is False
    found = _stages.measure(model, Batches(images, labels, 7))
    assert found == {name: history.end[name] for name in history.start}


@pytest.mark.parametrize("middle, share", [(0.0, 0), (2.0, 0.5), (3.1, 0.75), (9, 1)])
def test_a_stage_ends_with_the_best_weights_of_its_line(middle, share):
    """From a threshold of 0 to one of 4; the held-out labels change at `middle`."""
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(2)])
    start = [np.array([[-1.0, 1.0]]), np.array([0.0, 0.0])]
    best = [np.array([[-1.0, 1.0]]), np.array([4.0, -4.0])]
    x = np.linspace(-5, 13, 400)[:, None]
    held_out = Batches(x, (x[:, 0] > middle).astype(int), 100)

    state = _stages.State({}, weights={"kept": start, "best": best})
    for name, weights in state.weights.items():
        model.set_weights(weights)
        setattr(state, name, _stages.measure(model, held_out) | {"epoch": int(share)})
    state.start = dict(state.kept)
    _stages.end_stage(state, model, held_out)
    expected = [(1 - share) * a + share * b for a, b in zip(start, best, strict=True)]
    for found, array in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, array, rtol=1e-6)
    assert state.kept.get("share", int(share)) == share
    losses = (state.kept, _stages.measure(model, held_out))
    one, other = (found["val_calibrated_loss"] for found in losses)
    assert one == pytest.approx(other, rel=1e-5) and state.stage == 1


def test_the_mean_of_the_state_of_a_seed_is_the_newer_one():
    one, other = np.array([1, 2], "uint32"), np.array([3, 4], "uint32")
    np.testing.assert_array_equal(_stages.mean(one, other, 0.5), other)


def test_held_out_metrics_are_those_of_keras_and_scipy():
    model = new_model(classifier_activation=None)
    images, labels = two_colors()
    labels = np.where(np.arange(len(labels)) % 4, labels, 1 - labels)
    found = _stages.measure(model, Batches(images, labels, 7))
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    expected = model.evaluate(images, labels, verbose=0, return_dict=True)
    logits = model.predict(images, verbose=0).astype("float64")

    def loss(log_temperature):
        logs = scipy.special.log_softmax(logits / np.exp(log_temperature), -1)
        return -logs[range(len(labels)), labels].mean()

    limits = np.log([0.1, 10])
    calibrated = scipy.optimize.minimize_scalar(loss, bounds=limits, method="bounded")
    assert found == {
        "val_accuracy": expected["accuracy"],
        "val_loss": pytest.approx(expected["loss"], rel=1e-5),
        "val_calibrated_loss": pytest.approx(calibrated.fun, rel=1e-5),
    }


def test_a_network_too_sure_of_itself_may_be_the_better_one():
    rng, labels = np.random.default_rng(0), np.arange(1000) % 2
    softmax = keras.Sequential([keras.layers.Activation("softmax")])

    def measured(mean, scale):
        logits = scale * (rng.normal(size=(1000, 2)) + mean * np.eye(2)[labels])
        return _stages.measure(softmax, Batches(logits, labels, 100))

    modest, sure = measured(1.0, 1.0), measured(1.5, 10.0)
    assert sure["val_accuracy"] > modest["val_accuracy"]
    assert sure["val_loss"] > modest["val_loss"]
    assert _stages.is_better(sure, modest) and not _stages.is_better(modest, sure)
    perfect = measured(20.0, 0.01)
    assert perfect["val_accuracy"] == 1
    assert perfect["val_loss"] > sure["val_calibrated_loss"]
    assert _stages.is_better(perfect, sure)
    # Neither what was not measured nor what diverged is better.
    diverged = measured(np.nan, 1.0)
    assert not _stages.is_better({}, {}) and not _stages.is_better(diverged, {})


def test_patience_ends_a_stage():
    images, labels = two_colors()
    history = elu_zoo.finetune(
        new_model(),
        images,
        labels,
        (images, 1 - labels),
        epochs=(9, 9),
        learning_rate=(1e-2, 1e-3),
        patience=2,
        verbose=0,
    )
    for stage in (1, 2):
        losses = np.array(history["val_calibrated_loss"])[
            np.array(history["stage"]) == stage
        ]
        assert len(losses) == min(9, losses.argmin() + 1 + 2)
    with pytest.raises(UserError, match="validation_data"):
        elu_zoo.finetune(new_model(), images, labels, patience=2)


class Interrupt(keras.callbacks.Callback):
    """Raises in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.last, self.epochs = epoch, []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(epoch)

    def on_train_batch_end(self, batch, logs=None):
        if self.epochs[-1] == self.last:
            raise KeyboardInterrupt


def test_a_resumed_run_ends_with_the_same_bits(tmp_path):
    images, labels = two_colors()
    options = dict(
        epochs=(2, 3),
        batch_size=8,
        validation_data=(images[:8], labels[:8]),
        verbose=0,
    )
    whole = new_model(dropout=0.2)
    expected = elu_zoo.finetune(whole, images, labels, **options)
    file, seen = tmp_path / "checkpoint.npz", []
    for epoch in (1, 2, 4, None):
        model, callback = new_model(dropout=0.2), Interrupt(epoch)
        arguments = options | {"callbacks": [callback], "checkpoint": file}
        if epoch is None:
            history = elu_zoo.finetune(model, images, labels, **arguments)
        else:
            with pytest.raises(KeyboardInterrupt):
                elu_zoo.finetune(model, images, labels, **arguments)
        seen.append(callback.epochs)
    assert seen == [[0, 1], [1, 2], [2, 3, 4], [4]]
    assert history == expected
    for resumed, uninterrupted in zip(arrays(model), arrays(whole), strict=True):
        np.testing.assert_array_equal(resumed, uninterrupted)

    # What is finished is not trained again; what is another run is an error.
    callback = Interrupt(None)
    again = new_model(dropout=0.2)
    arguments = options | {"callbacks": [callback], "checkpoint": file}
    assert elu_zoo.finetune(again, images, labels, **arguments) == expected
    assert callback.epochs == []
    np.testing.assert_array_equal(arrays(again)[-1], arrays(whole)[-1])
    with pytest.raises(UserError, match="seed=0. Received: seed=1"):
        elu_zoo.finetune(again, images, labels, **arguments, seed=1)
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(UserError, match="damaged"):
        elu_zoo.finetune(again, images, labels, **arguments)


def test_batches_are_a_function_of_seed_and_epoch():
    images, labels = two_colors(20)
    batches, others = (Batches(images, labels, 8, seed=1, augment=True) for _ in "ab")
    batches.epoch = others.epoch = 3
    first = [batches[i] for i in range(len(batches))]
    for i in reversed(range(3)):  # As threads may ask for them.
        np.testing.assert_array_equal(others[i][0], first[i][0])
    assert sorted(np.concatenate([y for _, y in first])) == sorted(labels)
    batches.epoch = 4
    assert not np.array_equal(batches[0][0], first[0][0])


def test_augmented_images_are_shifted_by_up_to_an_eighth():
    image = np.arange(16 * 16, dtype="uint8").reshape(1, 16, 16, 1)
    (batch, _) = Batches(image.repeat(64, 0), np.zeros(64, int), 64, 0, True)[0]
    padded = np.pad(image[0], ((2, 2), (2, 2), (0, 0)), mode="reflect")
    allowed = {
        side[y : y + 16, x : x + 16].tobytes()
        for side in (padded, padded[:, ::-1])
        for y in range(5)
        for x in range(5)
    }
    found = {image.tobytes() for image in batch}
    assert found <= allowed and len(found) > 20


def test_mlflow_with_its_file_store(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="mlflow-skinny is not installed")
    page = (pathlib.Path(__file__).parents[1] / "docs/finetuning.md").read_text()
    block = page[page.index("import os\n\nimport mlflow") :].split("```")[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")  # Undone afterwards.
    images, labels = two_colors()
    names = {"keras": keras, "elu_zoo": elu_zoo, "model": new_model()}
    names |= {"images": images, "labels": labels, "validation_data": (images, labels)}
    exec(block, names)
    (run,) = mlflow.search_runs(output_format="list")
    steps = mlflow.MlflowClient().get_metric_history(run.info.run_id, "val_loss")
    assert [metric.step for metric in steps] == [0, 1]
    assert (tmp_path / "mlruns").is_dir()


def test_a_run_from_other_weights_or_on_other_sizes_is_not_resumed(tmp_path):
    model = elu_zoo.ELUNet11(classes=2, width=0.05, input_shape=(None, None, 3))
    options = dict(epochs=(1, 0), checkpoint=tmp_path / "run.npz", verbose=0)
    images, labels = two_colors(8)
    elu_zoo.finetune(model, images, labels, **options)
    with pytest.raises(UserError, match=r"size=\[32, 32, 3\]. Received: size=\[16, 16"):
        elu_zoo.finetune(model, images[:, ::2, ::2], labels, **options)
    record = elu_zoo.get_record(model)
    attach_record(model, dataclasses.replace(record, name="elunet11.cifar100"))
    with pytest.raises(UserError, match="Received: model='elunet11.cifar100'"):
        elu_zoo.finetune(model, images, labels, **options)


def test_a_run_in_bfloat16_is_resumed(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    options = dict(epochs=(2, 0), checkpoint=tmp_path / "run.npz", verbose=0)
    options["validation_data"] = two_colors(8)
    callback = Interrupt(1)
    with pytest.raises(KeyboardInterrupt):
        elu_zoo.finetune(new_model(), *two_colors(), callbacks=[callback], **options)
    callback = Interrupt(None)
    elu_zoo.finetune(new_model(), *two_colors(), callbacks=[callback], **options)
    assert callback.epochs == [1]
