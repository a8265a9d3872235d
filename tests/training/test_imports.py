"""Imports point one way: from `training` to `elu_zoo`, from its engine to its data.

They form no cycle, whether they are at the top of a module or in a function, and no
command imports a command.
"""

import ast
import graphlib
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


FOLDERS = ("elu_zoo", "training")


def imported(path):
    for node in run_by(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run_by(node):
    """The nodes of a module that run: not those for type checkers alone."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)):
            yield from run_by(child)


@pytest.fixture(scope="module")
def graph():
    """The modules that each module imports."""
    paths = [path for name in FOLDERS for path in (ROOT / name).rglob("*.py")]
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths
    }
    modules = {name.removesuffix(".__init__"): path for name, path in modules.items()}

    def known(name):
        while name not in modules:
            name = name.rpartition(".")[0]
        return name

    return {
        module: {known(x) for x in imported(path) if x.split(".")[0] in FOLDERS}
        - {module, *FOLDERS}
        for module, path in modules.items()
    }


def test_no_imports_form_a_cycle(graph):
    assert len(graph) > 100
    tuple(graphlib.TopologicalSorter(graph).static_order())


def test_no_command_imports_a_command(graph):
    commands = {
        module
        for module in graph
        if (path := ROOT / f"{module.replace('.', '/')}.py").is_file()
        and '__name__ == "__main__"' in path.read_text()
    }
    assert "training.train" in commands
    assert not {
        (name, *graph[name] & commands) for name in commands if graph[name] & commands
    }


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
