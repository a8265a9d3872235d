"""The record of a run's weights, as the manifest has it."""

from __future__ import annotations

import hashlib
import math
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from elu_zoo.errors import UserError
from training.finished_runs import recipe_changes
from training.summary import cost

if TYPE_CHECKING:
    import keras

    from elu_zoo.architectures import Architecture
    from training.engine.run import Run

# Largest weights file in the installed package; larger ones are fetched.
MAX_BYTES = 20_000_000


def architecture_of(run: Run) -> tuple[str, Architecture]:
    """Finds the architecture of a run's model.

    Args:
        run: The run.

    Returns:
        Its name in `elu_zoo.architectures`, and its table.
    """
    from elu_zoo.architectures import find_architecture

    found = find_architecture(run.settings["model"])
    assert found, run.settings["model"]  # The run has built it.
    return found


def about_file(name: str, content: bytes) -> dict[str, Any]:
    """Describes a weights file.

    Args:
        name: Name of the weights.
        content: Bytes of the file.

    Returns:
        Fields of the record.
    """
    digest = hashlib.sha256(content).hexdigest()
    return {
        "file": f"{name}-{digest[:8]}.weights.h5",
        "sha256": digest,
        "bytes": len(content),
        "packaged": len(content) <= MAX_BYTES,
        "urls": [],
    }


def about_model(
    run: Run, model: keras.Model, shape: tuple[int, int, int]
) -> dict[str, Any]:
    """Describes the model that a run trained.

    Args:
        run: The run.
        model: Its model.
        shape: Shape of an image.

    Returns:
        Fields of the record.
    """
    from training.engine.cost import multiply_adds

    name, side = run.settings["model"], run.facts["input_shape"][0]
    any_size = bool(architecture_of(run)[1].pyramid_levels)
    return {
        "model": name,
        "arguments": run.arguments,
        # Without the statistics of the preprocessing; a ZCA matrix has nine million.
        "parameters": sum(math.prod(v.shape) for v in model.trainable_variables),
        "multiply_adds": multiply_adds(model),
        "input_shape": [None, None, shape[-1]] if any_size else list(shape),
        # Side of the data set's images, if the weights are for a different one.
        "resized_from": side if shape[0] != side else None,
        "class_names": list(run.class_names),
    }


def about_initial(run: Run, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Describes the weights that a run started from.

    Args:
        run: The run.
        before: Record of the weights that the run's are to replace, if any.

    Returns:
        Their file and what their training cost, with that of the weights that they
        started from in turn; empty for random weights.

    Raises:
        UserError: If the run started from weights other than those that it replaces.
    """
    path = run.settings.get("initial_weights")
    if not path:
        return {}
    file = pathlib.Path(path).name
    if before is None or before["file"] != file:
        raise UserError(
            "Expected a run that starts from the weights that it replaces. Received: "
            f"{path}, while {before and before['file']} are published"
        )
    return {"file": file, **cost(before)}


def about_teacher(run: Run) -> dict[str, Any]:
    """Describes the teacher of a run.

    Args:
        run: The run.

    Returns:
        Its settings as `teacher`, with what its own training cost; empty without one.

    Raises:
        UserError: If other weights have been published under the teacher's name since.
    """
    from elu_zoo.weights import get_record

    settings = run.settings.get("teacher")
    if not settings:
        return {}
    record = get_record(settings["weights"])
    if record.file != settings["file"]:
        raise UserError(
            f"Expected the weights of {settings['weights']} that the run learned from, "
            f"{settings['file']}. Received: {record.file}, published since"
        )
    return {"teacher": settings | {"flop": record.training["flop"]}}


def about_run(run: Run, name: str, initial: Mapping[str, Any]) -> dict[str, Any]:
    """Describes the training of a run.

    Args:
        run: The run.
        name: Name of the weights.
        initial: What `about_initial` returned.

    Returns:
        Fields of the record.
    """
    from training.data.sources import CATALOGUE
    from training.engine.cost import training_flop

    settings, facts = run.settings, run.facts
    entry = CATALOGUE[settings["dataset"]]
    return {
        "dataset": {
            "name": settings["dataset"],
            "terms": entry.terms,
            "url": entry.url,
        },
        "license": "Apache-2.0; see the terms of the training data",
        "recipe": f"docs/results/{name}/recipe.txt",
        "recipe_changes": recipe_changes(run),
        "commit": facts["commit"],
        "training": {
            "seed": settings["seed"],
            "epochs": settings["epochs"],
            "examples": settings["train_examples"],
            "precision": settings["precision"],
            "seconds": run.rows[-1]["seconds"],
            "flop": training_flop(
                settings, facts["input_shape"], run.arguments["classes"]
            ),
            "starts": facts["starts"],
            "machine": facts["machine"],
            **({"initial": initial} if initial else {}),
            **about_teacher(run),
        },
    }
