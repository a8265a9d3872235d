"""Reading the folder of a finished run."""

import dataclasses
import json
import pathlib

from elu_zoo._weight_files import load_weights
from elu_zoo.errors import UserError
from elu_zoo.models import build_model
from elu_zoo.records import attach_record, get_record
from training.data import sources
from training.engine import runlog


@dataclasses.dataclass(frozen=True)
class Run:
    """What `training.engine.loop.train` left in a folder.

    Attributes:
        folder: `pathlib.Path` of the run.
        facts: Content of `run.json`.
        rows: Rows of the log.
    """

    folder: pathlib.Path
    facts: dict
    rows: list

    @property
    def settings(self):
        return self.facts["settings"]

    @property
    def arguments(self):
        """Arguments of the model function that give the network of the run.

        Dropout is none of them: it has no weights, and predictions do without.
        """
        arguments = dict(self.settings["model_arguments"])
        arguments.pop("dropout", None)
        return arguments | {"classes": len(self.facts["class_names"])}

    def build_model(self, which="last", input_shape=None):
        """The model of probabilities with the run's `"last"` or `"best"` weights.

        Args:
            which: `"last"` or `"best"`.
            input_shape: Another shape of images than that of the data set.
        """
        model = build_model(
            self.settings["model"],
            {"input_shape": tuple(input_shape or self.facts["input_shape"])}
            | self.arguments,
        )
        load_weights(model, self.folder / f"{which}.weights.h5")
        names = self.facts["class_names"]
        attach_record(model, dataclasses.replace(get_record(model), class_names=names))
        return model

    def load_data(self, split, data_dir):
        """A split of the run's data set.

        Raises:
            UserError: If its classes are not those that the run was trained on.
        """
        return sources.load(
            self.settings["dataset"], split, data_dir, self.facts["class_names"]
        )


def load_run(folder):
    """Reads a run.

    Args:
        folder: Path of its folder.

    Returns:
        A `Run`.

    Raises:
        UserError: If it is no run's folder, or the run has not been evaluated yet.
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
