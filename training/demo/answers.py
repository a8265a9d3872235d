"""Draws what a network answers to the sample images of CIFAR-100's test set.

    python -m training.demo.answers

The drawing, docs/results/answers.svg, opens README.
"""

import base64
import pathlib

import elu_zoo
from elu_zoo.files import replacing
from training.figures import BLUE, MODES

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMAGES = ROOT / "training/demo/images/cifar100"
OUT = ROOT / "docs/results/answers.svg"
WEIGHTS = "elunet11.cifar100"
COLUMNS, WIDTH, HEIGHT, SIDE, LINE = 4, 210, 240, 128, 31


def main() -> None:
    """Runs the command."""
    files = sorted(IMAGES.glob("*.png"))
    model = elu_zoo.load(WEIGHTS)
    predictions = model.predict(elu_zoo.preprocess_input(files, model), verbose=0)
    answers = elu_zoo.decode_predictions(predictions, top=3, model=model)
    with replacing(OUT) as part:
        part.write_text(drawing(files, answers), "utf-8")


def drawing(files: list[pathlib.Path], answers: list[list[tuple]]) -> str:
    """An SVG of images in a grid, each with the most probable classes as bars.

    Args:
        files: PNG files, named after their classes.
        answers: Of each image, tuples of `(number, name, probability)`.
    """
    height = HEIGHT * -(-len(files) // COLUMNS)
    cells = [
        f'<g transform="translate({i % COLUMNS * WIDTH} {i // COLUMNS * HEIGHT})">\n'
        f"{cell(file, rows)}</g>\n"
        for i, (file, rows) in enumerate(zip(files, answers, strict=True))
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" font-size="22" fill="currentColor" '
        f'viewBox="0 0 {COLUMNS * WIDTH} {height}">\n'
        f"<title>Answers of {WEIGHTS} to test images of CIFAR-100</title>\n"
        f"{MODES}\n{''.join(cells)}</svg>\n"
    )


def cell(file: pathlib.Path, rows: list[tuple]) -> str:
    """One image of the grid and its answers."""
    data = base64.b64encode(file.read_bytes()).decode()
    lines = [
        f'<image width="{SIDE}" height="{SIDE}" x="6" y="6" '
        f'href="data:image/png;base64,{data}"/>\n'
    ]
    for i, (_, name, probability) in enumerate(rows):
        y = SIDE + 14 + i * LINE
        width = max(2, round(probability * (WIDTH - 16)))
        weight = ' font-weight="bold"' if name == file.stem else ""
        lines.append(
            f'<rect x="6" y="{y}" width="{width}" height="{LINE - 3}" fill="{BLUE}" '
            'opacity="0.3"/>\n'
            f'<text x="12" y="{y + 21}"{weight}>{name.replace("_", " ")}</text>\n'
            f'<text x="{WIDTH - 16}" y="{y + 21}" text-anchor="end"{weight}>'
            f"{probability:.0%}</text>\n"
        )
    return "".join(lines)


if __name__ == "__main__":
    main()
