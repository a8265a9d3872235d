"""Tables written in parts: atomic as a whole, and resumable after an interruption."""

from __future__ import annotations

import csv
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

from elu_zoo.errors import UserError
from elu_zoo.files import locked, replacing

ROWS = 256
"""Rows per part: the most that an interruption can lose."""

Row = dict[str, Any]
"""A row: strings, lists of strings or of numbers, and `"error"`, `None` or a string."""


class RowFile:
    """A CSV, JSON Lines or Parquet file of rows, by its extension; a context manager.

    Until `finish`, the rows are in the folder `<file>.parts`, in one file per `ROWS`
    rows, each written atomically and synced to disk. If the process stops for any
    reason, the next `RowFile` with the same settings continues after the parts.

    Args:
        path: The file to write; `finish` replaces an existing one.
        settings: JSON-plain values that the rows depend on. Parts that were made with
            different settings are refused.

    Attributes:
        done: Number of rows already written.
        failed: How many of them have an error.

    Raises:
        UserError: If the extension is not one of `FORMATS`, the settings differ from
            those of the parts, Parquet's library is missing, or another process is
            writing the same file.
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

    def __init__(self, path: str | os.PathLike[str], settings: dict[str, Any]) -> None:
        self.path = pathlib.Path(path)
        if self.path.suffix not in FORMATS:
            raise UserError(
                f"Expected a file name that ends in one of {', '.join(FORMATS)}. "
                f"Received: {self.path}"
            )
        self._write, self._join = FORMATS[self.path.suffix]
        if self.path.suffix == ".parquet":
            _pyarrow()
        if self.path.is_dir():
            raise UserError(f"Expected a file. Received: the folder {self.path}")
        self.parts = self.path.with_name(f"{self.path.name}.parts")
        self.parts.mkdir(exist_ok=True)
        self._lock = locked(self.parts)
        try:
            self._check(settings)
        except BaseException:
            self._lock.release()
            raise
        found = self._found()
        self.done = ROWS * len(found)
        self.failed = sum(map(_errors, found))

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def append(self, rows: Iterable[Row]) -> None:
        """Writes rows, `ROWS` at a time; the last part may be shorter.

        Args:
            rows: Rows that all have the same keys.

        Raises:
            UserError: If an earlier call wrote a shorter part.
        """
        if self.done % ROWS:
            raise UserError(
                f"Expected all rows after the first {self.done // ROWS * ROWS} in one "
                f"call. Received: more after {self.done}"
            )
        rows = iter(rows)
        while part := list(itertools.islice(rows, ROWS)):
            failed = sum(row["error"] is not None for row in part)
            name = f"{self.done // ROWS:09d}.{failed}"
            with replacing(self.parts / name) as file:
                self._write(file, part)
            self.done += len(part)
            self.failed += failed

    def finish(self) -> None:
        """Joins the parts into the file, atomically, and removes them."""
        found = self._found()
        with replacing(self.path) as file:
            self._join(file, found)
        # From the last to the first: an interrupted removal can be resumed.
        for part in reversed(found):
            part.unlink()
        # Windows does not remove a file that is locked.
        self._lock.release()
        shutil.rmtree(self.parts)

    def _found(self) -> list[pathlib.Path]:
        """The parts in order, up to the first one missing."""
        parts = sorted(self.parts.glob("[0-9]*"))
        numbered = enumerate(parts)
        return [p for _, p in itertools.takewhile(_in_its_place, numbered)]

    def _check(self, settings: dict[str, Any]) -> None:
        file = self.parts / "settings.json"
        # Without rows, nothing depends on the settings of an earlier attempt.
        if not (file.is_file() and self._found()):
            with replacing(file) as part:
                part.write_text(json.dumps(settings, indent=1) + "\n")
        before = json.loads(file.read_text())
        other = [name for name in settings if before.get(name) != settings[name]]
        if other:
            raise UserError(
                f"Expected the settings that {self.path} was started with. Received: "
                f"different values of {' and '.join(other)}. Delete {self.parts} to "
                "start over"
            )


def _in_its_place(numbered: tuple[int, pathlib.Path]) -> bool:
    number, part = numbered
    return int(part.name.split(".")[0]) == number


def _errors(part: pathlib.Path) -> int:
    return int(part.name.split(".")[1])


def _cells(row: Row) -> Iterator[tuple[str, Any]]:
    """The names and values of a row's cells; lists become numbered columns."""
    lists = {name: value for name, value in row.items() if isinstance(value, list)}
    singular = {"classes": "class", "probabilities": "probability"}
    for name, value in row.items():
        if name not in lists:
            yield name, value
        elif name == next(iter(lists)):
            for number, values in enumerate(zip(*lists.values(), strict=True), start=1):
                for other, cell in zip(lists, values, strict=True):
                    yield f"{singular.get(other, other)}_{number}", cell


def _text(file: pathlib.Path) -> TextIO:
    # File names need not be UTF-8; JSON reads the escapes as the same characters.
    return file.open("w", encoding="utf-8", errors="backslashreplace", newline="")


def _write_csv(file: pathlib.Path, rows: list[Row]) -> None:
    with _text(file) as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(name for name, _ in _cells(rows[0]))
        writer.writerows([cell for _, cell in _cells(row)] for row in rows)


def _join_csv(file: pathlib.Path, parts: list[pathlib.Path]) -> None:
    with file.open("wb") as out:
        for number, part in enumerate(parts):
            with part.open("rb") as rows:
                if number:
                    next(rows)
                shutil.copyfileobj(rows, out)


def _write_jsonl(file: pathlib.Path, rows: list[Row]) -> None:
    with _text(file) as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _join_jsonl(file: pathlib.Path, parts: list[pathlib.Path]) -> None:
    with file.open("wb") as out:
        for part in parts:
            with part.open("rb") as rows:
                shutil.copyfileobj(rows, out)


def _write_parquet(file: pathlib.Path, rows: list[Row]) -> None:
    pyarrow = _pyarrow()
    table = pyarrow.Table.from_pylist(
        [row | {"path": _escaped(row["path"])} for row in rows],
        schema=pyarrow.schema([(n, _type(pyarrow, n, v)) for n, v in rows[0].items()]),
    )
    pyarrow.parquet.write_table(table, file)


def _join_parquet(file: pathlib.Path, parts: list[pathlib.Path]) -> None:
    pyarrow = _pyarrow()
    schema = pyarrow.parquet.read_schema(parts[0])
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for start in range(0, len(parts), 64):
            tables = map(pyarrow.parquet.read_table, parts[start : start + 64])
            writer.write_table(pyarrow.concat_tables(tables))


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _type(pyarrow: Any, name: str, value: Any) -> Any:
    if not isinstance(value, list):
        return pyarrow.string()
    number = pyarrow.string() if name == "classes" else pyarrow.float32()
    return pyarrow.list_(number)


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "Expected pyarrow, which Parquet files need, to be installed: "
            f"pip install 'elu-zoo[parquet]'. Received: {error}"
        ) from error
    return pyarrow


FORMATS = {
    ".csv": (_write_csv, _join_csv),
    ".jsonl": (_write_jsonl, _join_jsonl),
    ".parquet": (_write_parquet, _join_parquet),
}
"""Functions that write a part and that join parts, by file extension."""
