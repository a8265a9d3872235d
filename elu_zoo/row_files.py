"""Tables that are written in parts: whole or not there, and resumed after any stop."""

import csv
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

from elu_zoo.errors import UserError
from elu_zoo.files import replacing

ROWS = 256
"""Rows per part: what an interruption can lose."""

Row = dict[str, Any]


class RowFile:
    """A CSV, JSON Lines or Parquet file of rows, by its ending; a context manager.

    Until `finish`, the rows lie in the folder `<file>.parts`, one file per `ROWS` rows,
    each synced and put in its place at once. Whatever stops the process, the same
    command finds them there.

    Args:
        path: The file to write; what is there is replaced at the end.
        settings: What the rows depend on, as JSON has it. Parts that were made with
            other settings are refused.

    Attributes:
        done: Number of rows that are written already.
        failed: How many of those have an error.

    Raises:
        UserError: If the ending is another, the settings are not those of the parts,
            Parquet's library is missing, or another process writes the same file.
        OSError: If the folder cannot be written to.

    Example:

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "answers.csv"
    >>> with RowFile(path, {"model": "mine"}) as file:
    ...     file.append([{"path": "a.png", "classes": ["cat"], "error": None}])
    ...     file.finish()
    >>> path.read_text().splitlines()
    ['path,class_1,error', 'a.png,cat,']
    """

    def __init__(self, path: str | os.PathLike, settings: dict[str, Any]):
        self.path = pathlib.Path(path)
        if self.path.suffix not in FORMATS:
            raise UserError(
                f"Expected a file that ends in one of {', '.join(FORMATS)}. "
                f"Received: {self.path}"
            )
        self._write, self._join = FORMATS[self.path.suffix]
        if self.path.suffix == ".parquet":
            _pyarrow()
        if self.path.is_dir():
            raise UserError(f"Expected a file. Received: the folder {self.path}")
        self.parts = self.path.with_name(f"{self.path.name}.parts")
        self.parts.mkdir(exist_ok=True)
        self._lock = _locked(self.parts)
        try:
            self._check(settings)
        except BaseException:
            self._lock.release()
            raise
        found = self._found()
        self.done = ROWS * len(found)
        self.failed = sum(map(_errors, found))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._lock.release()

    def append(self, rows: Iterable[Row]) -> None:
        """Writes rows, `ROWS` at a time; the last part may be shorter.

        Args:
            rows: Dicts with the same keys: strings, lists of strings or of numbers,
                and `"error"`, `None` or a string.
        """
        rows = iter(rows)
        while part := list(itertools.islice(rows, ROWS)):
            failed = sum(row["error"] is not None for row in part)
            name = f"{self.done // ROWS:09d}.{failed}"
            with replacing(self.parts / name) as file:
                self._write(file, part)
            self.done += len(part)
            self.failed += failed

    def finish(self) -> None:
        """Joins the parts to the file, in one step, and removes them."""
        found = self._found()
        with replacing(self.path) as file:
            self._join(file, found)
        # The last ones first: what is left by an interruption can be resumed.
        for part in reversed(found):
            part.unlink()
        shutil.rmtree(self.parts)

    def _found(self):
        """The parts in their order, up to the first that is missing."""
        parts = sorted(self.parts.glob("[0-9]*"))
        numbered = enumerate(parts)
        return [p for _, p in itertools.takewhile(_in_its_place, numbered)]

    def _check(self, settings):
        file = self.parts / "settings.json"
        if not file.is_file():
            with replacing(file) as part:
                part.write_text(json.dumps(settings, indent=1) + "\n")
        before = json.loads(file.read_text())
        other = [name for name in settings if before.get(name) != settings[name]]
        if other:
            raise UserError(
                f"Expected the command that began {self.path}. Received: other "
                f"{' and '.join(other)}. Delete {self.parts} to begin anew"
            )


def _in_its_place(numbered):
    number, part = numbered
    return int(part.name.split(".")[0]) == number


def _errors(part):
    return int(part.name.split(".")[1])


def _locked(folder):
    import filelock

    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise UserError(
            f"Expected that nobody else writes to {folder}. Another process does"
        ) from error
    return lock


def _cells(row: Row) -> Iterator[tuple[str, Any]]:
    """The columns of a row and their cells: those of a list are numbered, in turn."""
    lists = {name: value for name, value in row.items() if isinstance(value, list)}
    singular = {"classes": "class", "probabilities": "probability"}
    for name, value in row.items():
        if name not in lists:
            yield name, value
        elif name == next(iter(lists)):
            for number, values in enumerate(zip(*lists.values(), strict=True), start=1):
                for other, cell in zip(lists, values, strict=True):
                    yield f"{singular.get(other, other)}_{number}", cell


def _text(file, mode="w"):
    # Names of files need not be text; in JSON the escape that is left means the same.
    return file.open(mode, encoding="utf-8", errors="backslashreplace", newline="")


def _write_csv(file, rows):
    with _text(file) as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(name for name, _ in _cells(rows[0]))
        writer.writerows([cell for _, cell in _cells(row)] for row in rows)


def _join_csv(file, parts):
    with file.open("wb") as out:
        for number, part in enumerate(parts):
            with part.open("rb") as rows:
                if number:
                    next(rows)
                shutil.copyfileobj(rows, out)


def _write_jsonl(file, rows):
    with _text(file) as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _join_jsonl(file, parts):
    with file.open("wb") as out:
        for part in parts:
            with part.open("rb") as rows:
                shutil.copyfileobj(rows, out)


def _write_parquet(file, rows):
    pyarrow = _pyarrow()
    table = pyarrow.Table.from_pylist(
        [row | {"path": _escaped(row["path"])} for row in rows],
        schema=pyarrow.schema([(n, _type(pyarrow, n, v)) for n, v in rows[0].items()]),
    )
    pyarrow.parquet.write_table(table, file)


def _join_parquet(file, parts):
    pyarrow = _pyarrow()
    schema = pyarrow.parquet.read_schema(parts[0])
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(parts), 64):
            tables = map(pyarrow.parquet.read_table, parts[start : start + 64])
            writer.write_table(pyarrow.concat_tables(tables))


def _escaped(text):
    return text.encode("utf-8", "backslashreplace").decode()


def _type(pyarrow, name, value):
    if not isinstance(value, list):
        return pyarrow.string()
    number = pyarrow.string() if name == "classes" else pyarrow.float32()
    return pyarrow.list_(number)


def _pyarrow():
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Expected pyarrow to be installed, for Parquet files: "
            f"pip install 'elu-zoo[parquet]'. Received: {error}"
        ) from error
    return pyarrow


FORMATS = {
    ".csv": (_write_csv, _join_csv),
    ".jsonl": (_write_jsonl, _join_jsonl),
    ".parquet": (_write_parquet, _join_parquet),
}
