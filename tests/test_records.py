import dataclasses
import json
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest

import elu_zoo
from elu_zoo import records, weights
from elu_zoo.errors import UserError
from elu_zoo.heads import with_classes
from elu_zoo.predictions import set_threshold

RECORD = records.Record(
    "elunet11.pets",
    "ELUNet11",
    arguments={"classes": 2, "width": 0.05},
    input_shape=(32, 32, 3),
    preprocessing=records.Preprocessing(40, 32, "bicubic"),
    class_names=("cat", "dog"),
    temperature=1.5,
    dataset={"name": "pets", "terms": "none", "url": "none"},
)


def test_json_gives_the_same_record():
    plain = json.loads(json.dumps(RECORD.to_dict()))
    assert records.Record.from_dict(plain | {"of a newer version": 1}) == RECORD
    with pytest.raises(UserError, match="temperature=0"):
        dataclasses.replace(RECORD, temperature=0)


@pytest.fixture
def pets():
    model = elu_zoo.ELUNet11(width=0.05, classes=2)
    records.attach_record(model, RECORD)
    return model


def _without_softmax(model):
    return keras.Model(model.input, model.get_layer("predictions").output)


@pytest.mark.parametrize(
    "derive",
    [
        keras.models.clone_model,
        lambda model: keras.models.clone_model(
            model,
            clone_function=lambda layer: type(layer).from_config(layer.get_config()),
        ),
        lambda model: keras.Sequential([model]),
        _without_softmax,
        elu_zoo.features,
    ],
)
def test_models_made_of_a_model_have_its_record(pets, derive):
    assert weights.get_record(derive(pets)) == RECORD


def test_a_damaged_file_is_no_saved_model(pets, tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", "")
    with pytest.raises(UserError, match="Keras cannot load"):
        elu_zoo.load(path)
    pets.save(path)
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo("config.json").header_offset + 60
    content = bytearray(path.read_bytes())
    content[start : start + 30] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(UserError, match="Keras cannot load"):
        elu_zoo.load(path)


@pytest.mark.parametrize("first", ["keras, elu_zoo", "elu_zoo"])
def test_a_new_process_has_the_record(pets, tmp_path, first):
    path = tmp_path / "model.keras"
    pets.save(path)
    code = (
        f"import {first}, sys, json\n"
        "if len(sys.argv) > 2: model = elu_zoo.load(sys.argv[1])\n"
        "else: model = keras.saving.load_model(sys.argv[1])\n"
        "print(json.dumps(elu_zoo.get_record(model).to_dict()))\n"
    )
    load = ["load"] if first == "elu_zoo" else []
    result = subprocess.run(
        [sys.executable, "-c", code, path, *load], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    assert records.Record.from_dict(found) == RECORD


def test_a_folder_of_version_0_1_has_a_record(tmp_path):
    net = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    net.add(keras.layers.Dense(4, name="stack1_dense1"))
    net.add(keras.layers.Dense(2, name="predictions"))
    net.save(tmp_path / "model.keras")
    (tmp_path / "class_names.json").write_text('["cat", "dog"]')
    for path in (tmp_path, tmp_path / "model.keras"):
        model = elu_zoo.load(path)
        assert records.class_names_of(model) == ("cat", "dog")
        assert elu_zoo.preprocess_input(np.zeros((9, 9, 3)), model).shape[1] == 8
    set_threshold(model, 0.9)
    model.save(tmp_path / "new.keras")
    new = elu_zoo.load(tmp_path / "new.keras")
    assert new.layers[1].record.threshold == 0.9
    assert records.class_names_of(new) == ("cat", "dog")
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3))
    expected = keras.ops.convert_to_numpy(net(images))
    np.testing.assert_allclose(new(images), expected, rtol=1e-5)
    assert elu_zoo.features(model)(images)["stack1"].shape == (2, 4)
    swapped = with_classes(model, ["dog", "cat"], ["cat", "dog"])
    np.testing.assert_allclose(swapped(images), expected[:, ::-1], rtol=1e-5)


def test_the_record_of_what_was_built():
    model = elu_zoo.ELUNet15(
        width=0.05, stem_strides=1, input_shape=(None, None, 3), classes=3
    )
    record = elu_zoo.get_record(model)
    assert record.model == "ELUNet15" and record.input_shape == (None, None, 3)
    assert record.arguments == {"width": 0.05, "stem_strides": 1, "classes": 3}
    assert records.Record.from_dict(record.to_dict()) == record
    with pytest.raises(UserError, match="3 class names.*Received: 2"):
        records.attach_record(model, RECORD)
    with pytest.raises(UserError, match="no record"):
        weights.get_record(keras.Sequential([keras.layers.Dense(1)]))
