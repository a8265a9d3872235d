"""What a run depends on, kept in its folder and compared when it is resumed."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import time

from elu_zoo.files import replacing
from training.engine import device
from training.engine.recipe import read_code

# Seconds to wait for another process to leave the folder.
PATIENCE = 10


class FolderInUse(RuntimeError):
    """Another process is at work in the run's folder."""


@contextlib.contextmanager
def locked(folder):
    """Keeps other processes out, by a lock that the kernel releases after a kill."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        give_up = time.monotonic() + PATIENCE
        while not _lock(file):
            if time.monotonic() > give_up:
                raise FolderInUse(
                    f"Expected to be alone in {folder}. Another process is at work "
                    "there; wait for its end, or use another folder for --out."
                )
            time.sleep(0.1)
        yield


def _lock(file):
    """Whether no other process has the lock; yes where there are no locks."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):
        # Windows, and file systems of some clusters.
        pass
    return True


def settings_of(recipe, precision, rate_factor, examples, dropout):
    fields = {
        field.name: getattr(recipe, field.name)
        for field in dataclasses.fields(recipe)
        if not callable(getattr(recipe, field.name)) and field.name != "augmentation"
    }
    fields["model_arguments"] = dict(recipe.model_arguments)
    fields["eval_split"] = "holdout" if recipe.holdout else "test"
    fields |= {
        "dropout": dropout,
        "precision": precision,
        "rate_factor": rate_factor,
        "train_examples": examples,
    }
    return json.loads(json.dumps(fields))


def check_same(before, now, out):
    differing = [key for key in now if before.get(key) != now[key]]
    if differing:
        raise ValueError(
            f"Expected {out} to be empty or to hold a run with the same settings. "
            + "; ".join(
                f"Received: {k}={now[k]!r}, there {before.get(k)!r}" for k in differing
            )
            + ". Use another folder for --out."
        )


def check_same_code(recipe_path, out):
    """Settings do not tell of optimizer, learning rate and augmentation; code does."""
    kept = out / "recipe.py"
    if kept.is_file() and read_code(kept) != read_code(recipe_path):
        raise ValueError(
            f"Expected the recipe that the run in {out} began with. Received: "
            f"{recipe_path}, whose code is not that of {kept}. Use another folder for "
            f"--out; or, if the change is of no matter, copy the recipe to {kept}."
        )


def placement_facts(run):
    placement, recipe = run.placement, run.recipe
    return {
        "from_step": run.state["step"],
        "strategy": placement.name,
        "workers": placement.workers,
        "replicas": placement.replicas,
        "batch_size": recipe.batch_size,
        "batch_size_per_replica": recipe.batch_size // placement.replicas,
        "learning_rate_factor": run.settings["rate_factor"],
    }


def announce(run, recipe_path):
    facts = run.state["placements"][-1]
    print(
        f"{run.out}: from step {facts['from_step']} of {run.total}, strategy "
        f"{facts['strategy']}, {facts['workers']} workers, {facts['replicas']} replicas"
        f" of {facts['batch_size_per_replica']} images, global batch "
        f"{facts['batch_size']}, learning rate × {facts['learning_rate_factor']:g}",
        file=sys.stderr,
    )
    if run.state["starts"] == 1:
        with replacing(run.out / "recipe.py") as part:
            shutil.copyfile(recipe_path, part)


def write_facts(run):
    state = run.state
    facts = {
        "recipe": run.recipe_name,
        "settings": run.settings,
        "input_shape": run.image_shape,
        "class_names": run.train_set.class_names,
        "starts": state["starts"],
        "placements": state["placements"],
        "finished": state["step"] == run.total,
        "commit": _commit(),
        "machine": device.description(),
    }
    with replacing(run.out / "run.json") as part:
        part.write_text(json.dumps(facts, indent=2) + "\n")


def is_finished(out):
    path = out / "run.json"
    return path.is_file() and json.loads(path.read_text()).get("finished", False)


def _commit():
    if not shutil.which("git"):
        return None
    folder = pathlib.Path(__file__).parent
    result = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True
    )
    return result.stdout.strip() or None
