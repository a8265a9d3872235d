"""Writes what the demo of the site needs: onnxruntime-web, the networks, sample images.

    python training/demo/site_files.py build/assets/demo

The runtime comes from the npm registry, the networks from the published weights.
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
    models = [write_model(name, out) for name in elu_zoo.list_weights()]
    index = {
        "max_pixels": MAX_PIXELS,
        "max_ratio": MAX_RATIO,
        "models": [model for model in models if model],
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
                file = package.extractfile(f"package/dist/{name}")
                assert file, name
                (out / name).write_bytes(file.read())


def write_model(name: str, out: pathlib.Path) -> dict | None:
    """Exports published weights; returns what the page knows of them.

    Args:
        name: Name of the weights.
        out: Folder for the file.

    Returns:
        A dict; `None` for a network that gives no classes.
    """
    record = elu_zoo.get_record(name)
    if not record.class_names or not record.preprocessing:
        return None
    path = out / f"{record.file.split('.weights')[0]}.onnx"
    if not path.exists():
        # bfloat16 has 8 significant bits, float16 11; all weights are in its range.
        elu_zoo.export(elu_zoo.load(name), path, "onnx", dtype="float16")
    return {
        "name": name,
        "file": path.name,
        "bytes": path.stat().st_size,
        "channels": record.input_shape[-1],
        "preprocessing": dataclasses.asdict(record.preprocessing),
        "classes": list(record.class_names),
    }


if __name__ == "__main__":
    main()
