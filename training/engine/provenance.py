"""What a run depends on: kept in its folder, and compared when it resumes."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import logging
import pathlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import filelock

from elu_zoo.errors import UserError
from elu_zoo.files import replacing
from training.engine import dependencies, device
from training.engine.descriptions import describe

if TYPE_CHECKING:
    import keras

    from training.engine.recipe import Recipe

# Seconds to wait for another process to leave the folder.
PATIENCE = 10

logger = logging.getLogger(__name__)


class FolderInUse(RuntimeError):
    """Another process is using the run's folder."""


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes out by a lock that the kernel releases after a kill.

    Args:
        folder: Folder of the run; it is created if necessary.

    Raises:
        FolderInUse: If another process holds the lock for `PATIENCE` seconds.
        UserError: If the file system has no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=PATIENCE)
    except filelock.Timeout as error:
        raise FolderInUse(
            f"Expected to be alone in {folder}. Another process is using it; wait for "
            "it to end, or use a different folder for --out."
        ) from error
    except NotImplementedError as error:
        raise UserError(
            f"Expected a file system with locks (flock) for --out. Received: {folder}. "
            "Use a different one, or mount it with locks."
        ) from error
    with lock:
        yield


def settings_of(
    recipe: Recipe,
    precision: str,
    rate_factor: float,
    examples: int,
    dropout: Mapping[int, Any],
    decoder: str | None = None,
) -> dict[str, Any]:
    """Collects a recipe's plain fields and what the command adds to them.

    Args:
        recipe: The recipe.
        precision: Keras dtype policy.
        rate_factor: Factor for the recipe's learning rate.
        examples: Number of training images.
        dropout: Dropout rates by the first step that has them.
        decoder: Decoder of the images, if they are decoded during the run.

    Returns:
        A JSON-plain dict.
    """
    fields = {
        field.name: getattr(recipe, field.name)
        for field in dataclasses.fields(recipe)
        if field.name not in ("optimizer", "learning_rate", "initialize")
        and field.name != "augmentation"
    }
    fields["teacher"] = recipe.teacher and recipe.teacher.settings()
    fields["model_arguments"] = dict(recipe.model_arguments)
    fields["eval_split"] = "holdout" if recipe.holdout else "test"
    fields |= {
        "dropout": dropout,
        "precision": precision,
        "rate_factor": rate_factor,
        "train_examples": examples,
    }
    if decoder:
        fields["decoder"] = decoder
    return json.loads(json.dumps(fields))


def resolved(recipe: Recipe, optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Describes what a recipe's functions give.

    Args:
        recipe: The recipe.
        optimizer: The optimizer that it made.

    Returns:
        JSON-plain descriptions of the optimizer, its learning rate, the initialization
        and the augmentations.
    """
    described = describe(optimizer)
    described.pop("learning_rate", None)
    return {
        "optimizer": described,
        "learning_rate": describe(optimizer._learning_rate),
        "initialize": describe(recipe.initialize),
        "augmentation": describe(list(recipe.augmentation)),
    }


def check_same(
    before: Mapping[str, Any], now: Mapping[str, Any], out: pathlib.Path
) -> None:
    """Compares the settings of a run with those that it began with.

    Args:
        before: Settings that the run began with.
        now: Settings now.
        out: Folder of the run.

    Raises:
        UserError: If settings differ; the message names each of them.
    """
    # A setting that did not exist when the run began is a matter of its code.
    differing = list(_differences({k: before[k] for k in now if k in before}, now))
    if differing:
        raise UserError(
            f"Expected {out} to be empty or to hold a run with the same settings. "
            f"Received: {'; '.join(differing)}. Use a different folder for --out."
        )


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted(before.keys() | now.keys()):
            if name or key in before:
                inside = f"{name}.{key}" if name else key
                yield from _differences(before.get(key), now.get(key), inside)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, pair in enumerate(zip(before, now, strict=True)):
            yield from _differences(*pair, f"{name}[{index}]")
    elif before != now:
        yield f"{name}={now!r}, there {before!r}"


def check_same_code(
    sources: dict[str, str], out: pathlib.Path, accept: bool
) -> list[str]:
    """Compares the code of a run with that of its last start.

    Args:
        sources: Result of `dependencies.read_sources`.
        out: Folder of the run.
        accept: Whether to accept changes.

    Returns:
        Paths of the sources that changed.

    Raises:
        UserError: If sources changed and changes are not accepted.
    """
    kept = dependencies.kept(out)
    if not kept and (out / dependencies.RECIPE).is_file():
        # Earlier versions kept only the recipe.
        kept = sources | {
            dependencies.RECIPE: (out / dependencies.RECIPE).read_text("utf-8")
        }
    changed = dependencies.changed(kept, sources)
    if changed and not accept:
        raise UserError(
            f"Expected the code that the run in {out} began with. Received: changes in "
            f"{', '.join(changed)}. Use a different folder for --out, or "
            "--accept-code-changes if they do not alter what the run computes."
        )
    if changed:
        logger.warning("Code changed since the last start: %s", ", ".join(changed))
    return changed


def placement_facts(run: Any) -> dict[str, Any]:
    """Collects what is kept of one start of a run, besides its settings.

    Args:
        run: The run of `training.engine.loop`.

    Returns:
        A JSON-plain dict.
    """
    placement, recipe = run.placement, run.recipe
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "from_step": run.state["step"],
        "strategy": placement.name,
        "workers": placement.workers,
        "replicas": placement.replicas,
        "batch_size": recipe.batch_size,
        "batch_size_per_replica": recipe.batch_size // placement.replicas,
        "learning_rate_factor": run.settings["rate_factor"],
        "started": now.isoformat("T", "seconds"),
        **_version(),
        "changed_code": run.changed_code,
        "machine": device.description(),
    }


def announce(run: Any, recipe_path: str | pathlib.Path) -> None:
    """Logs how the run starts, and keeps the code that it starts with.

    Args:
        run: The run of `training.engine.loop`.
        recipe_path: Path of the recipe file.
    """
    facts = run.state["placements"][-1]
    logger.info(
        "%s: from step %d of %d, strategy %s, %d workers, %d replicas of %d images, "
        "global batch %d, learning rate × %g",
        run.out,
        facts["from_step"],
        run.total,
        *(facts[k] for k in ("strategy", "workers", "replicas")),
        *(facts[k] for k in ("batch_size_per_replica", "batch_size")),
        facts["learning_rate_factor"],
    )
    start = run.state["starts"]
    if start == 1:
        with replacing(run.out / dependencies.RECIPE) as part:
            shutil.copyfile(recipe_path, part)
    if start == 1 or run.changed_code or not dependencies.kept(run.out):
        dependencies.keep(run.out, run.sources, start)


def write_facts(run: Any) -> None:
    """Writes `run.json`.

    Args:
        run: The run of `training.engine.loop`.
    """
    state = run.state
    last = state["placements"][-1] if state["placements"] else {}
    facts = {
        "recipe": run.recipe_name,
        "settings": run.settings,
        "input_shape": run.image_shape,
        "class_names": run.train_set.class_names,
        "starts": state["starts"],
        "placements": state["placements"],
        "finished": state["step"] == run.total,
        "commit": last.get("commit"),
        "machine": last.get("machine") or device.description(),
    }
    with replacing(run.out / "run.json") as part:
        part.write_text(json.dumps(facts, indent=2) + "\n")


def is_finished(out: pathlib.Path) -> bool:
    """Returns whether a folder holds a run that reached its end.

    Args:
        out: Folder of the run.
    """
    path = out / "run.json"
    return path.is_file() and json.loads(path.read_text()).get("finished", False)


def _version() -> dict[str, Any]:
    """The checkout's commit, and whether its files differ from it."""
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--untracked-files=no")
    return {"commit": commit or None, "dirty": bool(changes) if commit else None}


def _git(*arguments: str) -> str | None:
    if not shutil.which("git"):
        return None
    result = subprocess.run(
        ["git", *arguments], cwd=dependencies.ROOT, capture_output=True, text=True
    )
    return result.stdout.strip()
