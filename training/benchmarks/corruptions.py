"""Measures how well published weights classify corrupted images.

    pip install imagecorruptions-imaug
    python -m training.benchmarks.corruptions elunet11.cifar100 --data DIR

The corruptions are the 15 common ones of Hendrycks & Dietterich (2019), each at five
severities, on images spread evenly over the test set. The package has the definitions
for ImageNet, which are harsher on small images than those of CIFAR-100-C. Its build of
OpenCV conflicts with that of the extra `training`: install it in a separate
environment.

The command writes `docs/results/NAME/corruptions.csv`, from which
`python -m training.tables` renders the robustness section of the model card.
"""

import pathlib

import numpy as np

from training.benchmarks.measuring import ROOT, machine, write_csv
from training.commands import parse, parser, positive

SEVERITIES = range(1, 6)
# Corruptions that take a seed; the others draw from NumPy's global state.
SEEDED = ("impulse_noise", "glass_blur")


def corrupted(images: np.ndarray, name: str, severity: int) -> np.ndarray:
    """Corrupts images, the same way each time.

    Args:
        images: uint8 array of shape `(n, height, width, 3)`, of 32 pixels or more.
        name: Name of the corruption.
        severity: Severity from 1 to 5.

    Returns:
        An array of the same shape and dtype.
    """
    from imagecorruptions import corrupt

    np.random.seed(severity)
    return np.stack(
        [
            corrupt(image, severity, name, **({"seed": i} if name in SEEDED else {}))
            for i, image in enumerate(images)
        ]
    )


def main(argv: list[str] | None = None) -> None:
    """Runs the command."""
    options = parser("training.benchmarks.corruptions", __doc__)
    options.add_argument("name", help="name of published weights")
    options.add_argument("--data", required=True, help="folder of the data sets")
    options.add_argument("--images", type=positive, default=2000)
    options.add_argument("--csv", type=pathlib.Path, help="file to write instead")
    arguments = parse(options, argv)

    facts = machine()  # Sets the environment before Keras is loaded.
    from imagecorruptions import get_corruption_names

    from elu_zoo import datasets
    from elu_zoo.evaluation import evaluate
    from elu_zoo.images import image_side
    from elu_zoo.models import load
    from elu_zoo.weights import get_record

    record = get_record(arguments.name)
    test = datasets.load(record.dataset["name"], "test", arguments.data)
    count = min(arguments.images, len(test))
    test = test[np.linspace(0, len(test) - 1, count).astype(int)]
    model = load(record.name)
    rows = []
    kinds = [(n, s) for n in get_corruption_names() for s in SEVERITIES]
    for name, severity in [("none", 0), *kinds]:
        images = corrupted(test.images, name, severity) if severity else test.images
        shown = datasets.Dataset(images, test.labels, test.class_names)
        shown = shown.resized(image_side(model))
        metrics = evaluate(model, shown.images, shown.labels)
        rows.append(
            {
                "weights": record.sha256[:8],
                "corruption": name,
                "severity": severity,
                "n": count,
                "error": round(metrics["error"], 4),
                "calibration_error": round(metrics["calibration_error"], 4),
            }
            | facts
        )
        print(name, severity, f"{metrics['error']:.2%}", flush=True)
    path = ROOT / "docs/results" / record.name / "corruptions.csv"
    write_csv(arguments.csv or path, rows)


if __name__ == "__main__":
    main()
