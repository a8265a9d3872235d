import csv
import json
import os

import pyarrow.parquet
import pytest

from elu_zoo import row_files
from elu_zoo.errors import UserError

ROWS = [
    {
        "path": name,
        "classes": [f"class {i}", "ant"],
        "probabilities": [i / 8, 0.125],
        "error": "no image" if i == 3 else None,
    }
    for i, name in enumerate(["a", "b\nc", '"', "骆驼", "é,", "f", "\udce9.png"])
]
SHOWN = [row["path"] for row in ROWS[:-1]] + ["\\udce9.png"]


class Killed(BaseException):
    pass


def write(path):
    with row_files.RowFile(path, {"model": "m"}) as file:
        file.append(ROWS[file.done :])
        file.finish()
        return file


def paths_of(path):
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as lines:
            return [row["path"] for row in csv.DictReader(lines)]
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        assert rows == ROWS
        return SHOWN
    rows = pyarrow.parquet.read_table(path).to_pylist()
    assert [r["classes"] for r in rows] == [r["classes"] for r in ROWS]
    assert [r["probabilities"] for r in rows] == [r["probabilities"] for r in ROWS]
    return [row["path"] for row in rows]


@pytest.mark.parametrize("suffix", row_files.FORMATS)
def test_killed_at_any_step_it_resumes_with_the_same_rows(
    tmp_path, monkeypatch, suffix
):
    monkeypatch.setattr(row_files, "ROWS", 2)
    path = tmp_path / f"out{suffix}"
    steps = iter(())

    def dies_at_its_step(call):
        def run(*args, **kwargs):
            if next(steps, None):
                raise Killed
            return call(*args, **kwargs)

        return run

    for name in ("replace", "fsync", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, dies_at_its_step(getattr(os, name)))
    for step in range(100):
        steps = iter([*[False] * step, True])
        try:
            write(path)
        except Killed:
            assert not path.exists() or paths_of(path) == SHOWN
            file = write(path)
        else:
            file = None
        assert paths_of(path) == SHOWN
        assert [p.name for p in tmp_path.iterdir()] == [path.name]
        if file is None:
            break
        assert file.failed == 1
        path.unlink()
    assert step > 10


def test_others_rows_are_not_continued(tmp_path, monkeypatch):
    monkeypatch.setattr(row_files, "ROWS", 2)
    path = tmp_path / "out.csv"
    with row_files.RowFile(path, {"model": "a", "top": 1}) as file:
        file.append(ROWS[:2])
        with pytest.raises(UserError, match="Another process"):
            row_files.RowFile(path, {"model": "a", "top": 1})
    with pytest.raises(UserError, match="different values of model and top"):
        row_files.RowFile(path, {"model": "b", "top": 2})
    assert not path.exists()


def test_parquet_without_its_library_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"elu-zoo\[parquet\]"):
        row_files.RowFile(tmp_path / "out.parquet", {})
    assert not list(tmp_path.iterdir())


def test_settings_of_an_attempt_without_rows_do_not_bind(tmp_path):
    path = tmp_path / "out.csv"
    with row_files.RowFile(path, {"--resize": None}):
        pass
    with row_files.RowFile(path, {"--resize": 32}) as file:
        file.append(ROWS)
    with pytest.raises(UserError, match="different values of --resize"):
        row_files.RowFile(path, {"--resize": None})


def test_no_lock_is_held_when_its_folder_is_removed(tmp_path, monkeypatch):
    """Windows would refuse to remove it."""
    locked = []
    remove = lambda folder: locked.append(file._lock.is_locked)  # noqa: E731
    monkeypatch.setattr(row_files.shutil, "rmtree", remove)
    with row_files.RowFile(tmp_path / "out.csv", {}) as file:
        file.append(ROWS)
        file.finish()
    assert locked == [False]


def test_rows_after_a_shorter_part_are_refused(tmp_path):
    with row_files.RowFile(tmp_path / "out.jsonl", {}) as file:
        file.append(ROWS)
        with pytest.raises(UserError, match="in one call"):
            file.append(ROWS)
        file.finish()
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == len(ROWS)
