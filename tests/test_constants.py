"""Public constants of the package have docstrings, which no rule of ruff asks for."""

import ast
import itertools
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "elu_zoo"
PATHS = [path for path in PACKAGE.rglob("*.py") if path.name[:2] != "__"]
PUBLIC = [path for path in PATHS if path.name[0] != "_"]


def constants(node):
    """The public names that a statement assigns."""
    if isinstance(node, ast.Assign | ast.AnnAssign):
        for target in getattr(node, "targets", None) or [node.target]:
            names = (x.id for x in ast.walk(target) if isinstance(x, ast.Name))
            yield from (name for name in names if name[0] != "_")


def is_text(node):
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


@pytest.mark.parametrize("path", PUBLIC, ids=lambda path: path.stem)
def test_they_are_documented(path):
    body = ast.parse(path.read_text()).body
    for node, after in itertools.zip_longest(body, body[1:]):
        names = list(constants(node))
        assert not names or is_text(after), names
