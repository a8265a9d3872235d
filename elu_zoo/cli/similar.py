"""Finds the images in a folder that are most similar to one.

Similarity is the cosine of the angle between the images' vectors. FOLDER may also be a
pattern, @LIST or -, as in `elu-zoo predict`. A file that is not an image is left out,
with a warning, and the exit code is then 3.

examples:
  elu-zoo similar camel.png photos
  elu-zoo similar camel.png photos --embeddings stack4 --top 3 --json
"""

from __future__ import annotations

import argparse
import heapq
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from elu_zoo.cli.common import (
    add_model_argument,
    add_precision_argument,
    add_resize_argument,
    known_model,
    print_json,
    start_backend,
)
from elu_zoo.errors import UserError

if TYPE_CHECKING:
    from elu_zoo.batch import Predictor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the subcommand's arguments to its parser."""
    parser.add_argument("query", metavar="QUERY", help="image to compare with")
    parser.add_argument("folder", metavar="FOLDER", help="images to search")
    add_model_argument(parser, "--model", default="elunet11.cifar100")
    add_resize_argument(parser)
    add_precision_argument(parser)
    parser.add_argument(
        "--top",
        type=int,
        default=5,
        metavar="N",
        help="number of images to find (default: 5)",
    )
    parser.add_argument(
        "--embeddings",
        default="last",
        metavar="STACK",
        help="stack whose output vectors are compared (default: last)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand; returns its exit code."""
    from elu_zoo._names import printable
    from elu_zoo.batch import Predictor, find_paths
    from elu_zoo.image_folders import warn_left_out

    name = known_model(arguments.model)
    paths = find_paths([arguments.folder])
    start_backend()
    predictor = Predictor(
        name,
        embeddings=arguments.embeddings,
        resize=arguments.resize,
        dtype=arguments.dtype,
    )
    bad: list[pathlib.Path] = []
    found = heapq.nlargest(
        arguments.top, _similarities(predictor, arguments.query, paths, bad)
    )
    warn_left_out("Files that cannot be read as images", bad)
    if arguments.json:
        print_json([{"path": path, "similarity": value} for value, path in found])
    else:
        for value, path in found:
            print(f"{value:6.3f}  {printable(path)}")
    return 3 if bad else 0


def _similarities(
    predictor: Predictor, query: str, paths: list[str], bad: list[pathlib.Path]
) -> Iterator[tuple[float, str]]:
    """The similarity and the path of each image; other files are added to `bad`."""
    import numpy as np
    from tqdm import tqdm

    answer = predictor([query])
    if answer["error"][0]:
        raise UserError(answer["error"][0])
    wanted = answer["vector"][0] / np.linalg.norm(answer["vector"][0])
    rest = iter(tqdm(paths, unit=" images", disable=None))
    for columns in predictor.stream(paths):
        lengths = np.linalg.norm(columns["vector"], axis=1)
        values = columns["vector"] @ wanted / np.maximum(lengths, 1e-30)
        for value, error in zip(values, columns["error"], strict=True):
            path = next(rest)
            if error is None:
                yield float(value), path
            else:
                bad.append(pathlib.Path(path))
