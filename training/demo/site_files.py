"""Writes what the demo of the site needs: onnxruntime-web, the networks, sample images.

    python -m training.demo.site_files build/assets/demo

The runtime comes from the npm registry, the networks from the published weights:
exactly, and in 8 bits where `training.demo.int8` found that the error hardly rises.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

import elu_zoo
from elu_zoo.images import MAX_PIXELS, MAX_RATIO
from elu_zoo.records import Record
from training.demo import quantized

RUNTIME = "onnxruntime-web@1.30.0"
FILES = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
)
SAMPLES = pathlib.Path(__file__).parent / "images/cifar100"


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=pathlib.Path, help="folder to write")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    write_runtime(out)
    samples = sorted(SAMPLES.glob("*.png"))
    for path in samples:
        shutil.copy(path, out)
    models = [
        model
        for record in map(elu_zoo.get_record, elu_zoo.list_weights())
        for model in write_models(record, out)
    ]
    index = {
        "max_pixels": MAX_PIXELS,
        "max_ratio": MAX_RATIO,
        "models": models,
        "samples": [path.name for path in samples],
    }
    # Last, since its presence means that all is there.
    (out / "index.json").write_text(json.dumps(index))


def write_runtime(out: pathlib.Path) -> None:
    """Takes the files of the runtime from its npm package."""
    if all((out / name).exists() for name in FILES):
        return
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", RUNTIME]
        name = subprocess.check_output(command, cwd=folder, text=True).strip()
        archive = pathlib.Path(folder) / name
        with tarfile.open(archive) as package:
            for name in FILES:
                package.extract(f"package/dist/{name}", folder, filter="data")
                shutil.move(f"{folder}/package/dist/{name}", out)


def write_models(record: Record, out: pathlib.Path) -> list[dict]:
    """Exports published weights; returns what the page knows of the files.

    Args:
        record: Record of the weights.
        out: Folder for the files.

    Returns:
        A dict for each file; none for a network that gives no classes.
    """
    if not record.class_names or not record.preprocessing:
        return []
    # bfloat16 has 8 significant bits, float16 11; all weights are in its range.
    writers = {"float16": write_exact}
    if quantized.loses_nothing(record.file):
        writers["int8"] = quantized.write
    models = []
    for dtype, write in writers.items():
        path = out / f"{record.file.split('.weights')[0]}-{dtype}.onnx"
        if not path.exists():
            write(record.name, path)
        models.append(
            {
                "name": f"{record.name}, int8" if dtype == "int8" else record.name,
                "file": path.name,
                "bytes": path.stat().st_size,
                "channels": record.input_shape[-1],
                "preprocessing": dataclasses.asdict(record.preprocessing),
                "classes": list(record.class_names),
            }
        )
    return models


def write_exact(name: str, path: pathlib.Path) -> None:
    """Exports published weights in float16."""
    elu_zoo.export(elu_zoo.load(name), path, "onnx", dtype="float16")


if __name__ == "__main__":
    main()
