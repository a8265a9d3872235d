import io
import pathlib
import pickle
import re
import sys

import numpy as np
import pyarrow.parquet
import pytest
from made_up import write_class_folders
from PIL import Image

import elu_zoo
from elu_zoo.batch import Predictor, find_paths, predict_on_ray
from elu_zoo.errors import UserError

NAME = "elunet11.cifar100"
GUIDE = pathlib.Path(__file__).parents[1] / "docs/predicting.md"


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


def test_answers_below_the_threshold_are_none_of_these(zoo, tmp_path):
    sources = [*write_images(tmp_path, 6), str(tmp_path / "no.png")]
    answer = Predictor(NAME, top=2)(sources)
    first = answer["probabilities"][:, 0]
    threshold = float(np.sort(first[:-1])[3])
    found = Predictor(NAME, top=2, threshold=threshold)(sources)
    for name, empty in (("classes", ""), ("probabilities", 0)):
        expected = answer[name].copy()
        expected[:-1][first[:-1] < threshold, 1] = empty
        if name == "classes":
            expected[:-1][first[:-1] < threshold, 0] = "none of these"
        assert (found[name] == expected).all()
    assert (found["classes"] == "none of these").sum() == 3
    with pytest.raises(elu_zoo.errors.UserError, match="threshold=2"):
        Predictor(NAME, threshold=2)


def test_bfloat16_answers_like_float32(zoo, tmp_path):
    sources = write_images(tmp_path, 6)
    expected = Predictor(NAME, top=4)(sources)
    answer = Predictor(NAME, top=4, dtype="bfloat16")(sources)
    by_class, exact = (
        np.take_along_axis(a["probabilities"], np.argsort(a["classes"], axis=1), 1)
        for a in (answer, expected)
    )
    assert by_class.dtype == "float32"
    # bfloat16 has 8 significant bits.
    np.testing.assert_allclose(by_class, exact, atol=0.02)
    assert (by_class != exact).any()
    vectors = Predictor(NAME, embeddings="stack2", dtype="bfloat16")(sources)["vector"]
    exact = Predictor(NAME, embeddings="stack2")(sources)["vector"]
    np.testing.assert_allclose(vectors, exact, rtol=0.05, atol=0.05)
    with pytest.raises(elu_zoo.errors.UserError, match="dtype='float8'"):
        Predictor(NAME, dtype="float8")


@pytest.mark.slow
def test_ray_with_a_worker_killed_in_the_middle(zoo, tmp_path):
    """Two workers, of which one is lost: the rows of one process, in their order."""
    ray = pytest.importorskip("ray")
    psutil = pytest.importorskip("psutil")
    paths = write_images(tmp_path / "images", 120)
    (tmp_path / "images/red/7.jpg").write_text("no image")
    with pytest.raises(UserError, match="batch_size=0"):
        Predictor(NAME, batch_size=0)
    worker = Predictor(NAME, top=2, batch_size=2)
    answers, killed = [], []
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for columns in predict_on_ray(paths, worker, workers=2):
            answers.append(columns)
            if not killed:
                killed = [
                    process
                    for process in psutil.Process().children(recursive=True)
                    if "Predictor" in process.name() + "".join(process.cmdline())
                ]
                killed[0].kill()
    finally:
        ray.shutdown()
    assert len(killed) == 2 and len(answers) > 4
    rows = {
        name: np.concatenate([answer[name] for answer in answers])
        for name in answers[0]
    }
    expected = worker(paths)
    assert [path.decode() for path in rows["path"]] == paths
    assert rows["classes"].tolist() == expected["classes"].tolist()
    np.testing.assert_allclose(
        rows["probabilities"], expected["probabilities"], atol=1e-6
    )
    assert rows["error"].tolist() == expected["error"].tolist()


def run_the_guide(engine, **names):
    """Runs the code that the guide shows for an engine."""
    section = GUIDE.read_text().split(f"### {engine}\n")[1]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    exec(code[1], {"Predictor": Predictor} | names)


@pytest.mark.slow
def test_spark_as_in_the_guide(zoo, tmp_path, monkeypatch):
    pytest.importorskip("pyspark")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.chdir(tmp_path)
    paths = write_images(tmp_path / "photos", 6)
    (tmp_path / "photos/red/0.jpg").write_text("no image")
    run_the_guide("Spark")
    rows = pyarrow.parquet.read_table("answers").to_pylist()
    rows = {row["path"].removeprefix("file:"): row["answer"] for row in rows}
    assert sorted(rows) == paths
    expected = Predictor(NAME, top=3)(paths)
    for i, path in enumerate(paths):
        assert rows[path]["classes"] == expected["classes"][i].tolist()
        assert (rows[path]["error"] is None) == (expected["error"][i] is None)
        np.testing.assert_allclose(
            rows[path]["probabilities"], expected["probabilities"][i], atol=1e-6
        )


@pytest.mark.slow
def test_beam_as_in_the_guide(zoo, tmp_path, capfd):
    pytest.importorskip("apache_beam")
    paths = write_images(tmp_path, 6)
    run_the_guide("Beam", files=paths)
    printed = capfd.readouterr().out
    for names in Predictor(NAME, top=3)(paths)["classes"]:
        assert str(names.tolist()) in printed


def test_lists_without_a_path_are_refused(tmp_path, monkeypatch):
    (tmp_path / "empty").write_text("\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    for name in ("-", f"@{tmp_path / 'empty'}"):
        with pytest.raises(elu_zoo.errors.UserError, match=f"images. Received: {name}"):
            find_paths([name])
