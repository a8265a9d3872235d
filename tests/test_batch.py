import io
import pickle

import numpy as np
from made_up import write_class_folders
from PIL import Image

import elu_zoo
from elu_zoo.batch import Predictor

NAME = "elunet11.cifar100"


def write_images(folder, count):
    write_class_folders(folder, ("red", "green"), count // 2, 24)
    return sorted(map(str, folder.rglob("*.jpg")))


def test_the_worker_takes_what_engines_give(zoo, tmp_path):
    """Ray's dicts of arrays, Spark's arrays, Beam's lists; it travels as a pickle."""
    good, bad = write_images(tmp_path, 2), str(tmp_path / "bad.png")
    data = [open(path, "rb").read() for path in good] + [b"no image"]
    paths = [*good, bad]
    worker = pickle.loads(pickle.dumps(Predictor(NAME, top=2)))
    model = elu_zoo.ELUNet11(weights="cifar100")
    images = [Image.open(io.BytesIO(item)) for item in data[:2]]
    images = elu_zoo.preprocess_input(images, NAME)
    expected = np.asarray(model(images))
    for batch in (
        {"bytes": np.array(data, object), "label": np.arange(3)},
        {"path": np.array(paths)},
        np.array(data, object),
        paths,
    ):
        answer = worker(batch)
        assert answer["classes"].shape == answer["probabilities"].shape == (3, 2)
        np.testing.assert_allclose(
            answer["probabilities"][:2], -np.sort(-expected)[:, :2], atol=1e-5
        )
        names = np.array(["ant", "bee", "cat", "dog"])[np.argsort(-expected)[:, :2]]
        assert answer["classes"][:2].tolist() == names.tolist()
        assert answer["classes"][2].tolist() == ["", ""]
        assert not answer["probabilities"][2].any()
        assert [error is None for error in answer["error"]] == [True, True, False]
    assert "label" in worker({"bytes": [], "label": []})
    # A pickle of a worker that has loaded its model does not take it along.
    assert len(pickle.dumps(worker)) < 1000
