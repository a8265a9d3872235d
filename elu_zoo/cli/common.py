"""What several subcommands share."""

import json
import pathlib


def print_json(value):
    print(json.dumps(value, indent=1))


def print_table(rows):
    """Prints a table; the first row is its header, numbers are aligned to the right."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    numeric = [
        all(isinstance(row[i], (int, float)) or "%" in str(row[i]) for row in rows[1:])
        for i in range(len(widths))
    ]
    for row in texts:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        print("  ".join(cells).rstrip())


def load_model(source):
    """The model of a weights name or of a `.keras` file, and its class names."""
    import keras

    from elu_zoo.models import get_model_function
    from elu_zoo.records import get_record, list_weights

    path = pathlib.Path(source)
    # A folder that has the name of weights, such as their results, is "./NAME".
    named = str(source) in list_weights()
    if path.is_dir() and not named:
        path = path / "model.keras"
    if named or path.suffix != ".keras":
        record = get_record(str(source))
        model = get_model_function(record["model"])(weights=record["name"])
        return model, record["class_names"]
    if not path.is_file():
        raise FileNotFoundError(f"Expected a saved model. There is no {path}")
    try:
        model = keras.saving.load_model(path, compile=False)
    except TypeError as error:
        # Keras's message has the whole configuration of the model before the cause.
        cause = str(error).rsplit("Exception encountered: ", 1)[-1]
        raise ValueError(
            f"Expected a model of layers of Keras and elu_zoo. Received: {path}, which "
            f"Keras cannot load: {cause.splitlines()[0][:200]}"
        ) from error
    names = path.with_name("class_names.json")
    if names.is_file():
        return model, json.loads(names.read_text())
    return model, [str(i) for i in range(model.output_shape[-1])]


SOURCE_HELP = (
    "name of pretrained weights (see `elu-zoo list`), a .keras file, or a folder that "
    "`elu-zoo finetune` wrote"
)
