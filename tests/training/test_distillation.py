"""The teacher's part in the targets, against its formula."""

import dataclasses
import json
import pathlib
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from made_up import write_cifar100

import elu_zoo
from elu_zoo import datasets
from elu_zoo.errors import UserError
from elu_zoo.heads import HEAD
from training.data.memory import MemoryDataset
from training.engine import loop
from training.engine.distillation import ANSWERS, Teacher, distilled
from training.engine.recipe import load_recipe
from training.rendering import card
from training.run_records import about_teacher

ROOT = pathlib.Path(__file__).parents[2]
TEACHER = "elunet11.cifar100"


def softmax(logits):
    exponentials = np.exp(logits - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Made-up images with the names of the teacher's classes."""
    folder = tmp_path_factory.mktemp("data")
    write_cifar100(folder)
    names = elu_zoo.get_record(TEACHER).class_names
    path = folder / "cifar-100-binary/fine_label_names.txt"
    path.write_text("\n".join(names) + "\n")
    return folder


@pytest.fixture
def images(data_dir):
    return MemoryDataset.of(datasets.load("cifar100", "train", data_dir))[:12]


def test_targets_are_a_mean_of_labels_and_answers(images, tmp_path):
    teacher = Teacher(weights=TEACHER, share=0.3)
    found = distilled(images, teacher, tmp_path)

    model = elu_zoo.load(TEACHER)
    head = keras.Model(model.input, model.get_layer(HEAD).output)
    views = (images.images, np.flip(images.images, axis=2))
    logits = [head.predict(view, verbose=0).astype("float64") for view in views]
    answers = (softmax(logits[0]) + softmax(logits[1])) / 2
    expected = 0.7 * np.eye(100)[images.labels] + 0.3 * answers
    np.testing.assert_allclose(found.targets, expected, atol=1e-6)
    np.testing.assert_array_equal(found[[3, 1]].targets, found.targets[[3, 1]])


def test_the_answers_are_computed_once(images, tmp_path, monkeypatch):
    teacher = Teacher(weights=TEACHER, share=0.3)
    other = np.zeros((len(images), 100), "float32")
    np.save(tmp_path / ANSWERS.replace("*", "00000000"), other)  # Of another teacher.
    first = distilled(images, teacher, tmp_path, keep=False)
    assert len(list(tmp_path.iterdir())) == 1
    kept = distilled(images, teacher, tmp_path)
    np.testing.assert_array_equal(first.targets, kept.targets)
    np.testing.assert_allclose(first.targets.sum(-1), 1, atol=1e-5)
    monkeypatch.setattr(MemoryDataset, "predict", None)
    again = distilled(images, teacher, tmp_path)
    np.testing.assert_array_equal(first.targets, again.targets)
    with pytest.raises(UserError, match=r"for 5 images.*shape \(12, 100\)"):
        distilled(images[:5], teacher, tmp_path)


def test_a_stopped_run_ends_with_the_same_bits(data_dir, recipe_path, tmp_path):
    recipe = dataclasses.replace(
        load_recipe(recipe_path, epochs=1, image_sizes={0: 16}),
        teacher=Teacher(weights=TEACHER, share=0.5),
    )
    weights = {}
    for name, stops in {"whole": 0, "stopped": 1}.items():
        out = tmp_path / name
        options = {"progress": False, "log_every": 4, "precision": "float32"}
        for _ in range(stops):
            calls = iter([False, True])
            arguments = (recipe_path, recipe, data_dir, out)
            stopped = loop.train(
                *arguments, should_stop=lambda c=calls: next(c), **options
            )
            assert stopped is None and any(out.glob(ANSWERS))
        assert loop.train(recipe_path, recipe, data_dir, out, **options)
        weights[name] = (out / "last.weights.h5").read_bytes()
        settings = json.loads((out / "run.json").read_text())["settings"]
        assert settings["teacher"] == {
            "weights": TEACHER,
            "share": 0.5,
            "file": elu_zoo.get_record(TEACHER).file,
        }
    assert weights["whole"] == weights["stopped"]


def test_the_card_names_the_teacher_and_its_cost():
    settings = Teacher(weights="elunet18.cifar100", share=0.7).settings()
    run = SimpleNamespace(settings={"teacher": settings})
    manifest = json.loads((ROOT / "pretrained/manifest.json").read_text())["weights"]
    record = manifest["elunet11.cifar100"]
    training = record["training"] | about_teacher(run)
    figures = ROOT / "docs/results/elunet11.cifar100/evaluation.json"
    text = card(
        "elunet11.cifar100",
        record | {"training": training},
        json.loads(figures.read_text()),
        "curve.svg",
    )
    teacher = manifest["elunet18.cifar100"]
    text = " ".join(text.split())
    assert f"`{teacher['file']}`), which make up 70% of its targets" in text
    assert f"took {teacher['training']['flop'] / 1e15:.3g} PFLOP, which" in text

    assert about_teacher(SimpleNamespace(settings={})) == {}
    with pytest.raises(UserError, match="Received: elunet18.*, published since"):
        settings = settings | {"file": "elunet18.cifar100-00000000.weights.h5"}
        about_teacher(SimpleNamespace(settings={"teacher": settings}))


@pytest.mark.parametrize(
    "attributes, message",
    [
        ({"share": 0}, "share=0$"),
        ({"share": 1.5}, "share=1.5"),
        ({"share": 0.5, "weights": "elunet11.x"}, "elunet11.x"),
    ],
)
def test_wrong_teachers(attributes, message):
    with pytest.raises(UserError, match=message):
        Teacher(**{"weights": TEACHER} | attributes)


def test_a_teacher_of_other_classes(images, tmp_path):
    other = dataclasses.replace(images, class_names=images.class_names[::-1])
    teacher = Teacher(weights=TEACHER, share=0.5)
    with pytest.raises(UserError, match="teacher of the 100 classes"):
        distilled(other, teacher, tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="Received: a RecordDataset"):
        distilled(type("RecordDataset", (), {})(), teacher, tmp_path)
