import dataclasses
import random

import keras
import numpy as np
import pytest
from PIL import Image

import elu_zoo
from elu_zoo.batch import Predictor
from elu_zoo.labels import split_by_class


def two_colors(count=24):
    rng = np.random.default_rng(0)
    labels = np.arange(count) % 2
    images = rng.integers(0, 100, (count, 32, 32, 3))
    images[..., 0] += 150 * (labels == 0)[:, None, None]
    images[..., 1] += 150 * (labels == 1)[:, None, None]
    return images.astype("uint8"), labels


def values(model):
    return {v.path: np.array(v) for v in model.variables}


@pytest.mark.parametrize("stacks, moved", [(None, 2), (6, 2), (4, 2 + 6), (0, 22)])
def test_frozen_layers_do_not_move_and_the_others_do(stacks, moved):
    keras.utils.set_random_seed(0)
    model = elu_zoo.ELUNet11(classes=2, width=0.1)
    left = elu_zoo.freeze(model, stacks)
    assert left == sum(np.prod(v.shape) for v in model.trainable_variables)
    model.compile("sgd", "sparse_categorical_crossentropy")
    before = values(model)
    model.fit(*two_colors(), epochs=1, verbose=0)
    after = values(model)
    changed = [p for p in before if not np.array_equal(before[p], after[p])]
    assert len(changed) == moved
    assert all("preprocessing" not in path for path in changed)
    if stacks:
        assert all(f"stack{stacks}_" not in path for path in changed)


def test_freeze_wants_a_network_with_so_many_stacks():
    with pytest.raises(ValueError, match="0 to 6.*stacks=7"):
        elu_zoo.freeze(elu_zoo.ELUNet11(width=0.05), 7)
    for stacks in ("all", 2.5):
        with pytest.raises(ValueError, match="0 to 6"):
            elu_zoo.freeze(elu_zoo.ELUNet11(width=0.05), stacks)
    with pytest.raises(ValueError, match="Expected a model of elu_zoo"):
        elu_zoo.freeze(keras.Sequential([keras.layers.Dense(1)]))


def test_freeze_undoes_what_was_frozen_by_hand():
    model = elu_zoo.ELUNet11(classes=2, width=0.1)
    head = model.get_layer("predictions").count_params()
    model.trainable = False
    assert elu_zoo.freeze(model) == head
    model.get_layer("predictions").trainable = False
    assert elu_zoo.freeze(model) == head
    model.trainable = False
    statistics = 2 * 3
    assert elu_zoo.freeze(model, 0) == model.count_params() - statistics


def test_logits_are_trained_as_probabilities_are():
    losses = []
    for activation in ("softmax", None):
        keras.utils.set_random_seed(1)
        model = elu_zoo.ELUNet11(
            classes=2, width=0.05, classifier_activation=activation
        )
        history = elu_zoo.finetune(model, *two_colors(), epochs=(0, 2), verbose=0)
        losses.append(history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_finetune_learns_two_colors():
    keras.utils.set_random_seed(0)
    model = elu_zoo.ELUNet11(classes=2, width=0.1)
    images, labels = two_colors()
    history = elu_zoo.finetune(
        model,
        images,
        labels,
        (images, labels),
        epochs=(3, 12),
        learning_rate=(1e-2, 1e-3),
        batch_size=8,
        verbose=0,
    )
    assert {len(v) for v in history.values()} == {15}
    assert history["val_accuracy"][-1] == 1
    assert all(layer.trainable for layer in model.layers if "conv" in layer.name)
    assert model.evaluate(images, labels, verbose=0, return_dict=True)["accuracy"] == 1


def test_the_first_stage_trains_the_output_layer_alone():
    model = elu_zoo.ELUNet11(classes=2, width=0.1)
    before = values(model)
    elu_zoo.finetune(model, *two_colors(), epochs=(2, 0), verbose=0)
    after = values(model)
    changed = {p for p in before if not np.array_equal(before[p], after[p])}
    assert changed == {"predictions/kernel", "predictions/bias"}


def test_the_same_seed_gives_the_same_weights():
    results = []
    for _ in range(2):
        keras.utils.set_random_seed(3)
        model = elu_zoo.ELUNet11(classes=2, width=0.05)
        # Its order is to come from its own seed, not from Python's.
        random.seed(len(results))
        elu_zoo.finetune(model, *two_colors(), epochs=(0, 2), batch_size=4, seed=5)
        results.append(np.array(model.get_layer("predictions").kernel))
    np.testing.assert_allclose(*results, rtol=1e-4)


def test_plain_keras_fit(zoo):
    model = elu_zoo.ELUNet11(weights="cifar100", classes=2)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    images, labels = two_colors()
    losses = model.fit(images, labels, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    "images, labels, message",
    [
        (np.zeros((3, 32, 32, 3)), np.zeros(2, int), "labels of shape"),
        (np.zeros((0, 32, 32, 3)), np.zeros(0, int), "at least one image"),
        (np.zeros((2, 32, 32, 3)), np.array([0, 2]), "0 to 1"),
    ],
)
def test_data_that_does_not_fit(images, labels, message):
    model = elu_zoo.ELUNet11(classes=2, width=0.05)
    with pytest.raises(ValueError, match=message):
        elu_zoo.finetune(model, images, labels)


def test_split_by_class_holds_out_the_same_share_of_each():
    labels = np.repeat(np.arange(5), [10, 20, 30, 2, 100])
    train, held_out = split_by_class(labels, 0.2)
    assert sorted([*train, *held_out]) == list(range(162))
    assert list(np.bincount(labels[held_out])) == [2, 4, 6, 1, 20]
    np.testing.assert_array_equal(split_by_class(labels, 0.2)[1], held_out)
    with pytest.raises(ValueError, match="share=1"):
        split_by_class(labels, 1)
    with pytest.warns(UserWarning, match=r"one image.*\[3\]"):
        train, held_out = split_by_class(np.array([3, 4, 4]), 0.5)
    assert 0 in train and len(held_out) == 1


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": np.full((2, 32, 32, 3), 0.5)}, "Multiply by 255"),
        ({"images": np.full((2, 32, 32, 3), -1.0)}, "from 0 to 255"),
        ({"images": np.zeros((2, 32, 32, 1), "uint8")}, "shape.*32, 32, 1"),
        ({"labels": ["red", "green"]}, "Expected class_names"),
        ({"seed": -1}, "seed=-1"),
        ({"labels": ["red", "blue"], "class_names": ["green", "red"]}, "blue"),
        ({"labels": [0.5, 1]}, "class numbers"),
        ({"class_names": ["green"]}, "2 different class names"),
        ({"class_names": ["green", "r\ned"]}, "one line of UTF-8 text.*r.ned"),
        ({"epochs": 3}, "epochs to be two numbers.*epochs=3"),
        ({"epochs": (-1, 2)}, "epochs=\\(-1, 2\\)"),
        ({"learning_rate": 1e-3}, "learning_rate to be two"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"patience": 0, "validation_data": ()}, "patience=0"),
        ({"class_weight": {"blue": 2}}, "class_weight.*blue"),
        ({"validation_data": (np.full((1, 32, 32, 3), 0.5), [0])}, "Multiply by 255"),
    ],
)
def test_wrong_input_says_what_to_do(changes, message):
    model = elu_zoo.ELUNet11(classes=2, width=0.05)
    arguments = {"images": np.zeros((2, 32, 32, 3), "uint8"), "labels": [0, 1]}
    with pytest.raises(elu_zoo.errors.UserError, match=message):
        elu_zoo.finetune(model, **arguments | changes)


def test_names_and_weights_of_classes():
    images, labels = two_colors()
    names = np.array(["red", "green"])
    results = []
    for given, weight in [
        (labels, {0: 3}),
        (names[labels], {"red": 3}),
        (list(names[labels]), {"red": 1}),
    ]:
        keras.utils.set_random_seed(0)
        model = elu_zoo.ELUNet11(classes=2, width=0.05)
        record = elu_zoo.get_record(model)
        record = dataclasses.replace(record, class_names=("red", "green"))
        if given is not labels:
            elu_zoo.records.attach_record(model, record)
        elu_zoo.finetune(
            model,
            images,
            given,
            class_names=["red", "green"] if given is labels else None,
            class_weight=weight,
            epochs=(1, 0),
            verbose=0,
        )
        results.append(np.array(model.get_layer("predictions").bias))
    np.testing.assert_allclose(results[0], results[1], rtol=1e-4)
    assert results[0][0] > results[2][0]


def test_balanced_weights_are_those_of_scikit_learn():
    from elu_zoo.labels import class_weights

    # n / (classes * count), as compute_class_weight("balanced") has it.
    weights = class_weights("balanced", np.array([0, 0, 0, 1]), None, 2)
    assert weights == {0: 4 / (2 * 3), 1: 4 / (2 * 1)}


def test_a_reset_output_layer_is_a_different_one_each_time():
    model = elu_zoo.ELUNet11(classes=2, width=0.05)
    kernels = []
    for seed in (1, 1, 2, None):
        if seed:
            keras.utils.set_random_seed(seed)
        elu_zoo.reset_head(model)
        kernels.append(np.array(model.get_layer("predictions").kernel))
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert all(np.any(a != b) for a, b in zip(kernels[1:], kernels[2:], strict=False))


def test_a_network_inside_another_model(tmp_path):
    trunk = elu_zoo.ELUNet11(width=0.05, include_top=False, pooling="avg")
    model = keras.Sequential([trunk, keras.layers.Dense(2, activation="softmax")])
    model.build((None, 32, 32, 3))
    model.save(tmp_path / "model.keras")
    for nested in (model, keras.saving.load_model(tmp_path / "model.keras")):
        before = values(nested)
        elu_zoo.finetune(nested, *two_colors(), epochs=(1, 0), verbose=0)
        after = values(nested)
        changed = {p for p in before if not np.array_equal(before[p], after[p])}
        assert len(changed) == 2 and all("dense" in path for path in changed)
        elu_zoo.finetune(nested, *two_colors(), epochs=(0, 1), verbose=0)
        # The rates fall from stack to stack in it too.
        factors = dict(
            zip(
                [v.path for v in nested.trainable_variables],
                nested.optimizer._factors,
                strict=True,
            )
        )
        rates = [f for path, f in factors.items() if "stack1_" in path]
        np.testing.assert_allclose(rates, 0.7**6)


def test_a_network_for_any_size_notes_the_size_of_its_training():
    images, labels = two_colors(8)
    model = elu_zoo.ELUNet15(
        input_shape=(None, None, 3), stem_strides=1, width=0.01, classes=2
    )
    elu_zoo.finetune(model, images, labels, epochs=(0, 0), verbose=0)
    photo = np.zeros((50, 60, 3), "uint8")
    assert elu_zoo.preprocess_input(photo, model).shape == (1, 32, 32, 3)


def test_names_leave_a_trained_output_layer_as_it_is(zoo):
    model = elu_zoo.ELUNet11(weights="cifar100", classes=2)
    before, names = values(model), ["bee", "ant"]
    elu_zoo.finetune(model, *two_colors(), class_names=names, epochs=(0, 0))
    for path, value in values(model).items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)
    assert elu_zoo.get_record(model).class_names == ("bee", "ant")


def test_a_call_that_is_refused_leaves_the_record_as_it_was(tmp_path):
    model = elu_zoo.ELUNet11(classes=2, width=0.05)
    record = dataclasses.replace(elu_zoo.get_record(model), temperature=2.0)
    elu_zoo.records.attach_record(model, record)
    wrong = {
        "class_weight": {"class_names": ["a", "b"], "class_weight": {"c": 1}},
        "decay": {"rate_decay": 1.5},
        "No such file": {"checkpoint": tmp_path / "none/checkpoint.npz"},
    }
    for message, arguments in wrong.items():
        with pytest.raises((ValueError, OSError), match=message):
            elu_zoo.finetune(model, *two_colors(), **arguments)
        assert elu_zoo.get_record(model) == record


def test_numpy_numbers_are_numbers():
    rates, one = np.array([1e-3, 1e-4], "float32"), np.int64(1)
    options = {"epochs": (1.0, one), "learning_rate": tuple(rates), "seed": one}
    model = elu_zoo.ELUNet11(classes=2, width=0.05)
    history = elu_zoo.finetune(
        model, *two_colors(4), batch_size=np.int64(2), verbose=0, **options
    )
    assert history["stage"] == [1, 2]


def test_names_of_other_classes_are_none_of_a_new_output_layer(zoo):
    base = elu_zoo.ELUNet11(weights="cifar100")
    outputs = keras.layers.Dense(2, "softmax")(base.layers[-3].output)
    model = keras.Model(base.input, outputs)
    elu_zoo.finetune(model, *two_colors(4), epochs=(1, 0), verbose=0)
    (answer,) = elu_zoo.decode_predictions([[0.1, 0.9]], 1, model, ["a", "b"])
    assert answer == [(1, "b", 0.9)]


def test_logits_before_a_global_average_are_trained_as_such():
    trunk = elu_zoo.ELUNet11(width=0.05, include_top=False)
    head = [keras.layers.Conv2D(2, 1), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([trunk, *head])
    elu_zoo.finetune(model, *two_colors(4), epochs=(1, 0), verbose=0)
    assert model.loss.get_config()["from_logits"]


def test_a_network_that_reconstructs_needs_an_output_layer_for_classes(tmp_path):
    images, labels = np.zeros((2, 28, 28, 1), "uint8"), [0, 1]
    with pytest.raises(elu_zoo.errors.UserError, match="classifier.*MNISTAutoencoder"):
        elu_zoo.finetune(elu_zoo.MNISTAutoencoder(width=0.1), images, labels)
    trunk = elu_zoo.MNISTAutoencoder(width=0.1, include_top=False)
    model = keras.Sequential([trunk, keras.layers.Dense(2, "softmax")])
    elu_zoo.finetune(model, images, labels, epochs=(0, 0))
    assert elu_zoo.evaluation.evaluate(model, images, labels)["n"] == 2
    model.save(tmp_path / "model.keras")
    Image.fromarray(images[0, ..., 0]).save(tmp_path / "black.png")
    answer = Predictor(tmp_path / "model.keras", top=1)([str(tmp_path / "black.png")])
    assert answer["error"][0] is None and answer["classes"][0, 0] in ("0", "1")
