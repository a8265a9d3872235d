"""Classifies any number of images.

PATH is a file, a folder (with its subfolders), a quoted pattern, @LIST for the paths in
a file, or - for paths on the standard input. FILE ends in .csv, .jsonl or .parquet. It
appears once it is complete; after an interruption, the same command resumes. A file
that is not an image gets a row with an error, and the exit code is then 3.

examples:
  elu-zoo predict camel.png rocket.png
  elu-zoo predict photos --model elunet15.tiny_imagenet --out classes.csv
  find photos -name '*.jpg' | elu-zoo predict - --model RUN --out classes.parquet
  elu-zoo predict photos --embeddings stack6 --out vectors.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from elu_zoo.cli.common import (
    add_model_argument,
    add_precision_argument,
    add_resize_argument,
    known_model,
    start_backend,
)

if TYPE_CHECKING:
    from elu_zoo.batch import Predictor
    from elu_zoo.row_files import Row


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments to its parser."""
    parser.add_argument("paths", nargs="+", metavar="PATH", help="images to classify")
    add_model_argument(parser, "--model", default="elunet11.cifar100")
    add_resize_argument(parser)
    parser.add_argument(
        "--top", type=int, default=5, metavar="N", help="classes per image (default: 5)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="P",
        help='answer "none of these" if no class has this probability (0 to 1)',
    )
    parser.add_argument(
        "--embeddings",
        metavar="STACK",
        help="write the output vectors of a stack, such as stack6, instead of classes",
    )
    add_precision_argument(parser)
    parser.add_argument(
        "--out", metavar="FILE", help="write rows to a .csv, .jsonl or .parquet file"
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument(
        "--engine",
        choices=["local", "ray"],
        default="local",
        help="compute on this machine (default) or on a Ray cluster",
    )


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand; returns its exit code."""
    from elu_zoo.batch import Predictor, find_paths

    predictor = Predictor(
        known_model(arguments.model),
        top=arguments.top,
        embeddings=arguments.embeddings,
        resize=arguments.resize,
        threshold=arguments.threshold,
        dtype=arguments.dtype,
    )
    paths = find_paths(arguments.paths)
    if arguments.out:
        total, failed = len(paths), _write(arguments, paths, predictor)
        print(
            f"{arguments.out}: {total} rows predicted by {predictor.model}, "
            f"{failed} of them with an error"
        )
    else:
        failed = _print(arguments, paths, predictor)
    return 3 if failed else 0


def _write(
    arguments: argparse.Namespace, paths: list[str], predictor: Predictor
) -> int:
    """Writes the missing rows of the file; returns how many of all have an error."""
    from tqdm import tqdm

    from elu_zoo.row_files import RowFile

    names = "\0".join(paths).encode("utf-8", "surrogateescape")
    settings = {
        "model": _identity(predictor.model),
        "files": hashlib.sha256(names).hexdigest(),
        "--top": predictor.top,
        "--embeddings": predictor.embeddings,
        "--resize": predictor.resize,
        "--threshold": predictor.threshold,
        "--dtype": predictor.dtype,
    }
    with RowFile(arguments.out, settings) as file:
        rows = _rows(arguments, paths[file.done :], predictor)
        # The bar is for terminals.
        file.append(
            tqdm(
                rows,
                total=len(paths),
                initial=min(file.done, len(paths)),
                unit=" images",
                disable=None,
            )
        )
        file.finish()
    return file.failed


def _identity(model: str) -> str | list[str | int]:
    """The model's name; for a file, also its size and modification time."""
    path = os.path.join(model, "model.keras") if os.path.isdir(model) else model
    if not os.path.isfile(path):
        return model
    status = os.stat(path)
    return [model, status.st_size, status.st_mtime_ns]


def _rows(
    arguments: argparse.Namespace, paths: list[str], predictor: Predictor
) -> Iterator[Row]:
    """The rows of files, in their order."""
    from elu_zoo.batch import predict_on_ray

    if not paths:
        return
    if arguments.engine == "ray":
        answers = predict_on_ray(paths, predictor)
    else:
        start_backend()
        answers = predictor.stream(paths)
    _suggest(predictor.model, paths)
    rest = iter(paths)
    for columns in answers:
        lists = {name: columns[name].tolist() for name in columns if name != "path"}
        for values in zip(*lists.values(), strict=True):
            yield {"path": next(rest)} | dict(zip(lists, values, strict=True))


def _print(
    arguments: argparse.Namespace, paths: list[str], predictor: Predictor
) -> int:
    """Prints the rows as they come; returns how many have an error."""
    failed = 0
    if not arguments.json:
        print(f"Predictions of {predictor.model}:")
    for number, row in enumerate(_rows(arguments, paths, predictor)):
        failed += row["error"] is not None
        if arguments.json:
            print("[" if number == 0 else ",", json.dumps(row))
        else:
            _print_row(row)
    if arguments.json:
        print("]")
    elif failed:
        print(f"{failed} of {len(paths)} files could not be read as images")
    return failed


def _print_row(row: Row) -> None:
    from elu_zoo._names import printable

    print(printable(row["path"]))
    if row["error"]:
        print(f"  {row['error']}")
    for name, probability in zip(
        row.get("classes", []), row.get("probabilities", []), strict=True
    ):
        if name:
            print(f"  {probability:6.1%}  {printable(name)}")
    if "vector" in row and not row["error"]:
        print(" ", *(f"{value:.4g}" for value in row["vector"]))


def _suggest(model: str, paths: list[str]) -> None:
    """Warns if a model for small images is given photographs; names a better one."""
    from PIL import Image

    if not model.startswith(("elunet11.cifar", "elunet18.cifar")):
        return
    sides = []
    for path in paths[:20]:
        try:
            with Image.open(path, formats=["JPEG", "PNG", "WEBP"]) as image:
                sides.append(min(image.size))
        except Exception:
            continue
    if sides and sorted(sides)[len(sides) // 2] >= 128:
        warnings.warn(
            f"These are photographs; {model} was trained on images of 32×32 pixels. "
            "Try weights that were trained on larger ones: "
            "--model elunet15.tiny_imagenet",
            stacklevel=2,
        )
