"""The documentation site: `make site` builds it into `build/site`.

The source folder is the checkout itself, so that the pages of the site are the files
that the repository shows, and their links work in both.
"""

import csv
import importlib
import inspect
import json
import os
import pathlib
import pkgutil
import re
import shutil
import sys
import typing

import numpy.typing
from docutils import nodes
from docutils.parsers.rst.states import Inliner
from sphinx.application import Sphinx
from sphinx.domains.python import PythonDomain
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.nodes import make_refnode

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

# Else the reference spells out the union of private classes that it stands for.
numpy.typing.ArrayLike = typing.NewType("ArrayLike", object)
numpy.typing.ArrayLike.__module__ = "numpy.typing"

import elu_zoo  # noqa: E402
from elu_zoo.cli import make_parser  # noqa: E402

project = "elu_zoo"
author = "The elu_zoo authors"
release = elu_zoo.__version__
root_doc = "README"
include_patterns = [
    "README.md",
    "docs/*.md",
    "docs/notebooks/*.ipynb",
    "docs/site/**",
    "pretrained/cards/*.md",
    "training/benchmarks/README.md",
]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
extensions += ["sphinx.ext.autosummary"]
source_suffix = {".rst": "restructuredtext", ".md": "markdown", ".ipynb": "markdown"}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_mock_imports = ["fastapi", "kserve", "mlserver"]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autosummary_generate = False
napoleon_use_ivar = True
napoleon_use_rtype = False
add_module_names = False
default_role = "code_or_name"

html_theme = "furo"
html_title = f"elu_zoo {release}"
html_static_path = ["static", "../../build/assets"]
html_css_files = ["site.css"]
html_js_files = [("site.js", {"defer": "defer"})]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
pygments_dark_style = "github-dark"

CONTENTS = """

```{toctree}
:hidden:
:caption: Guides

docs/site/demo
docs/predicting
docs/finetuning
docs/notebooks/finetuning
docs/serving
docs/explaining
docs/diagnostics
docs/training
docs/imagenet
```

```{toctree}
:hidden:
:caption: Results

docs/site/results
docs/performance
docs/site/cards
docs/site/gallery
docs/paper
docs/notebooks/paper
training/benchmarks/README
```

```{toctree}
:hidden:
:caption: Reference

docs/site/api/index
docs/site/commands
docs/contributing
docs/changelog
```
"""
LINK = re.compile(r"(?<!!)\[([^][]+)\]\(([^()#:\s]+)\)")


def public_names() -> dict[str, str]:
    """Docstrings of the names without underscore, which the API reference has to have.

    What a package such as `elu_zoo.layers` exports is described there, not in the
    modules that it consists of.
    """
    names = {}
    for info in pkgutil.walk_packages(elu_zoo.__path__, "elu_zoo."):
        if "._" in info.name or info.name.startswith(
            ("elu_zoo.cli", "elu_zoo.serving")
        ):
            continue
        module = importlib.import_module(info.name)
        package = info.name.rpartition(".")[0]
        is_root = package == "elu_zoo"
        exported = () if is_root else getattr(sys.modules[package], "__all__", ())
        names |= {
            f"{package if name in exported else info.name}.{name}": value.__doc__ or ""
            for name, value in vars(module).items()
            if not name.startswith("_")
            and (inspect.isfunction(value) or inspect.isclass(value))
            and value.__module__ == info.name
        }
    return names


def results() -> dict:
    """The rows of the results."""
    with open(ROOT / "docs/results/results.csv", newline="") as file:
        return {"rows": list(csv.DictReader(file))}


def commands() -> dict:
    """What the subcommands print for `--help`, in lines of 80 characters."""
    os.environ["COLUMNS"] = "80"
    (subparsers,) = make_parser()._subparsers._group_actions
    return {"helps": {k: v.format_help() for k, v in subparsers.choices.items()}}


def galleries() -> dict:
    """What `training.demo.gallery` has written, by the name of the weights."""
    files = sorted((ROOT / "docs/results/gallery").glob("*/answers.json"))
    return {"galleries": {f.parent.name: json.loads(f.read_text()) for f in files}}


TEMPLATES = {
    "docs/site/commands": commands,
    "docs/site/gallery": galleries,
    "docs/site/results": results,
}


def notebook(text: str) -> str:
    """The cells of a notebook and their output as Markdown."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {"text/plain": output.get("text")})
            if "image/png" in data:
                png = data["image/png"].replace("\n", "")
                parts.append(f"![Output](data:image/png;base64,{png})")
            else:
                parts.append(f"```text\n{''.join(data['text/plain'])}\n```")
    return "\n\n".join(parts)


def read_source(app: Sphinx, name: str, source: list[str]) -> None:
    """Adds what the site has and the repository's pages have not."""
    if name == root_doc:
        source[0] += CONTENTS
    if name in TEMPLATES:
        values = TEMPLATES[name]()
        source[0] = app.builder.templates.render_string(source[0], values)
    if app.env.doc2path(name).suffix == ".ipynb":
        source[0] = notebook(source[0])
    folder = (ROOT / name).parent

    def unlinked(match: re.Match) -> str:
        is_folder = (folder / match[2]).resolve().is_dir()
        return match[1] if is_folder else match[0]

    source[0] = LINK.sub(unlinked, source[0])


def code_or_name(
    role: str, raw: str, text: str, line: int, inliner: Inliner, *more: object
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """What docstrings write in single backticks, as Markdown does.

    It is linked if something documented has such a name; single words such as `resize`
    are more often arguments.
    """
    is_name = re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*(\(\))?", text)
    if is_name and re.search(r"[A-Z_.(]", text):
        return PythonDomain.roles["obj"]("py:obj", raw, text, line, inliner)
    return [nodes.literal(raw, text, classes=["py"])], []


def skip_fields(
    app: Sphinx, kind: str, name: str, value: object, skip: bool, options: dict
) -> bool | None:
    """Leaves out the fields of named tuples, whose classes describe them."""
    return True if type(value).__name__ == "_tuplegetter" else None


def check_names(app: Sphinx, env: BuildEnvironment) -> None:
    """A public name that no page describes, or without an example, fails the build."""
    described, logger = env.domaindata["py"]["objects"], logging.getLogger(__name__)
    for name, text in public_names().items():
        if name not in described:
            logger.warning("%s is on no page of docs/site/api", name)
        if ">>>" not in text:
            logger.warning("%s has no example in its docstring", name)


def resolve_exported(
    app: Sphinx, env: BuildEnvironment, node: nodes.Element, text: nodes.Element
) -> nodes.reference | None:
    """Links a name such as `elu_zoo.load` to its place, `elu_zoo.models.load`."""
    name = node.get("reftarget", "").removeprefix("elu_zoo.").removesuffix("()")
    module = elu_zoo._MODULES.get(name)
    if node.get("refdomain") != "py" or not module:
        return None
    place = env.domaindata["py"]["objects"][f"elu_zoo.{module}.{name}"]
    return make_refnode(
        app.builder, node["refdoc"], place.docname, place.node_id, text, name
    )


def finish(app: Sphinx, error: Exception | None) -> None:
    """The start page of a folder is index.html."""
    if not error and app.builder.name == "html":
        shutil.copy(app.outdir / "README.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    """Connects the functions above."""
    app.add_role("code_or_name", code_or_name)
    app.connect("source-read", read_source)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("env-updated", check_names)
    app.connect("missing-reference", resolve_exported)
    app.connect("build-finished", finish)
