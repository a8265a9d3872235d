"""The code that a run depends on: found, kept in its folder, and compared."""

import ast
import pathlib
import re
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Iterator

from elu_zoo.files import replacing

ROOT = pathlib.Path(__file__).parents[2]
RECIPE = "recipe.py"
ENGINE = "training.engine.loop"
# Modules that watch a run or write about it, and do not affect what it computes.
BYSTANDERS = (
    "elu_zoo.errors",
    "elu_zoo.evaluation",
    "elu_zoo.files",
    "elu_zoo.predictions",
    "training.engine.dependencies",
    "training.engine.descriptions",
    "training.engine.provenance",
    "training.engine.rendezvous",
    "training.engine.runlog",
    "training.engine.stopping",
)


def read_sources(recipe_path: str | pathlib.Path) -> dict[str, str]:
    """Reads a recipe and every own module that its run can reach by imports.

    Own modules are those of the checkout, the working folder and `PYTHONPATH`, without
    installed packages and `BYSTANDERS`.

    Args:
        recipe_path: Path of the recipe file.

    Returns:
        Source texts by path, relative to the folder that they are imported from; the
        recipe is `"recipe.py"`.

    Example:

    >>> sources = read_sources("training/recipes/elunet11_cifar100.py")
    >>> "training/engine/schedules.py" in sources, "training/publish.py" in sources
    (True, False)
    """
    sources = {RECIPE: pathlib.Path(recipe_path).read_text(encoding="utf-8")}
    waiting = [ENGINE, *_imports(sources[RECIPE])]
    seen = set(BYSTANDERS)
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found = _find(name)
        if found:
            folder, path = found
            text = path.read_text(encoding="utf-8")
            sources[path.relative_to(folder).as_posix()] = text
            package = name if path.name == "__init__.py" else name.rpartition(".")[0]
            waiting += _imports(text, package)
    return dict(sorted(sources.items()))


def code_of(text: str) -> str:
    """Reduces a source text to its code, without docstrings and comments.

    The annotations of functions do not count either.

    Args:
        text: Source text of a module.

    Returns:
        A string that is equal for equal code.

    Example:

    >>> code_of("x = 1  # one") == code_of("x = 1")
    True
    >>> code_of("def f(x: int) -> int: ...") == code_of("def f(x): ...")
    True
    """
    tree = ast.parse(text)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and _is_text(body[0]):
            del body[0]
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
    return ast.dump(tree)


def changed(before: dict[str, str], now: dict[str, str]) -> list[str]:
    """Compares two sets of sources.

    Args:
        before: Result of `read_sources`.
        now: Another result of `read_sources`.

    Returns:
        Sorted paths of the sources whose code differs or that only one of both has.
    """
    return sorted(
        name
        for name in before.keys() | now.keys()
        if name not in before
        or name not in now
        or (before[name] != now[name] and code_of(before[name]) != code_of(now[name]))
    )


def keep(folder: pathlib.Path, sources: dict[str, str], start: int) -> None:
    """Writes the sources to a run's folder.

    Args:
        folder: Folder of the run.
        sources: Result of `read_sources`.
        start: Number of this start of the run, from 1. `code.zip` holds the sources of
            the first start, `code.<start>.zip` those of a later start that changed
            them.
    """
    name = "code.zip" if start == 1 else f"code.{start}.zip"
    with replacing(folder / name) as part, zipfile.ZipFile(part, "w") as archive:
        for path, text in sources.items():
            archive.writestr(path, text, zipfile.ZIP_DEFLATED)


def kept(folder: pathlib.Path) -> dict[str, str]:
    """Reads the sources in a run's folder, of the last start that changed them.

    Args:
        folder: Folder of the run.

    Returns:
        Source texts by path; empty if there are none.
    """
    archives = [path for path in folder.glob("code*.zip") if _start(path)]
    if not archives:
        return {}
    with zipfile.ZipFile(max(archives, key=_start)) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def _start(path: pathlib.Path) -> int:
    number = re.fullmatch(r"code(?:\.(\d+))?\.zip", path.name)
    return int(number[1] or 1) if number else 0


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _imports(text: str, package: str = "") -> Iterator[str]:
    """Names of the modules that a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from _from_import(node, package)


def _from_import(node: ast.ImportFrom, package: str) -> Iterator[str]:
    above = package.split(".")[: len(package.split(".")) - node.level + 1]
    parts = [*(above if node.level else ()), *([node.module] if node.module else ())]
    base = ".".join(parts)
    for alias in node.names:
        module = f"{base}.{alias.name}"
        # A submodule does not depend on what its package imports beside it.
        yield module if _find(module) else base


def _find(name: str) -> tuple[pathlib.Path, pathlib.Path] | None:
    """The folder that an own module is imported from, and its file."""
    place = name.replace(".", "/")
    for folder in _folders():
        for path in (folder / f"{place}.py", folder / place / "__init__.py"):
            if path.is_file():
                return folder, path
    return None


def _folders() -> Iterable[pathlib.Path]:
    installed = {pathlib.Path(path) for path in sysconfig.get_paths().values()}
    on_path = (pathlib.Path(entry or ".").absolute() for entry in sys.path)
    ours = (path for path in on_path if not _within(path, installed))
    return dict.fromkeys((ROOT, *ours))


def _within(path: pathlib.Path, folders: set[pathlib.Path]) -> bool:
    return any(path.is_relative_to(folder) for folder in folders)
