"""Reading the folder of a finished run."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import keras

from elu_zoo._weight_files import load_weights
from elu_zoo.architectures import reconstructs
from elu_zoo.errors import UserError
from elu_zoo.models import build_model
from elu_zoo.records import attach_record
from elu_zoo.weights import get_record
from training.data import sources
from training.data.protocol import Examples
from training.engine import runlog
from training.engine.inputs import split_holdout


@dataclasses.dataclass(frozen=True)
class Run:
    """What `training.engine.loop.train` left in a folder.

    Attributes:
        folder: Folder of the run.
        facts: Content of `run.json`.
        rows: Rows of the log.
    """

    folder: pathlib.Path
    facts: dict[str, Any]
    rows: list[runlog.Row]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of the run, see `training.engine.provenance.settings_of`."""
        return self.facts["settings"]

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of the model function, without dropout, which has no weights."""
        arguments = dict(self.settings["model_arguments"])
        arguments.pop("dropout", None)
        outputs = len(self.class_names) or math.prod(self.facts["input_shape"])
        return arguments | {"classes": outputs}

    @property
    def class_names(self) -> list[str]:
        """Names of the classes; none if the network reconstructs its images."""
        if reconstructs(self.settings["model"]):
            return []
        return self.facts["class_names"]

    def build_model(
        self, which: str = "last", input_shape: Sequence[int | None] | None = None
    ) -> keras.Model:
        """Builds the model with weights of the run.

        Args:
            which: `"last"`, `"best"` or `"stopped"`.
            input_shape: `(height, width, channels)` of the images; default that of the
                run's evaluations.

        Returns:
            A model that gives probabilities of shape `(n, classes)`.
        """
        model = build_model(
            self.settings["model"],
            {"input_shape": tuple(input_shape or self.facts["input_shape"])}
            | self.arguments,
        )
        load_weights(model, self.folder / f"{which}.weights.h5")
        names = tuple(self.class_names)
        record = dataclasses.replace(get_record(model), class_names=names)
        attach_record(model, record)
        return model

    def load_data(self, split: str, data_dir: str | pathlib.Path) -> Examples:
        """Opens a split of the run's data set.

        Args:
            split: `"train"`, `"test"`, or `"holdout"` for the images of train that the
                run left out.
            data_dir: Folder of the data sets.

        Returns:
            The examples.

        Raises:
            UserError: If its classes are not those that the run was trained on.
        """
        dataset = sources.load(
            self.settings["dataset"],
            "train" if split == "holdout" else split,
            data_dir,
            self.facts["class_names"],
        )
        if split == "holdout":
            return split_holdout(dataset, self.settings["holdout"])[1]
        return dataset


def load_run(folder: str | pathlib.Path) -> Run:
    """Reads a run.

    Args:
        folder: Folder of the run.

    Returns:
        The run.

    Raises:
        UserError: If it is not the folder of a run that has been evaluated.
    """
    folder = pathlib.Path(folder)
    missing = [
        name
        for name in ("run.json", "log.csv", "last.weights.h5")
        if not (folder / name).is_file()
    ]
    if missing:
        raise UserError(
            f"Expected {folder} to be the folder of a finished run. "
            f"It has no {', '.join(missing)}."
        )
    facts = json.loads((folder / "run.json").read_text())
    return Run(folder, facts, runlog.read(folder / "log.csv"))
