"""Imports point one way: from `training` to `elu_zoo`, from its engine to its data."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    "folder, forbidden",
    [
        ("elu_zoo", "training."),
        ("training/data", "training.engine."),
        ("training/engine", "training.recipes."),
    ],
)
def test_nothing_imports_back(folder, forbidden):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    wrong = {
        (str(path.relative_to(ROOT)), name)
        for path in paths
        for name in imported(path)
        if f"{name}.".startswith(forbidden)
    }
    assert not wrong
