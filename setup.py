"""Installs `elu_zoo`; the manifest and the weights travel inside the package."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (ROOT / "elu_zoo/__init__.py").read_text()
).group(1)

EXPORT = [
    "ai-edge-litert>=2.1",
    "onnx>=1.17",
    "onnxruntime>=1.20",
    "openvino>=2025.0",
    "tf2onnx>=1.16.1",
]

setup(
    name="elu-zoo",
    version=VERSION,
    description="Keras models of the ELU networks of Clevert et al. (ICLR 2016)",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["elu_zoo", "elu_zoo.*"]), "elu_zoo.pretrained"],
    package_dir={"elu_zoo.pretrained": "pretrained"},
    package_data={
        "elu_zoo.serving": ["*.json", "Dockerfile"],
        "elu_zoo.pretrained": [
            "manifest.json",
            "*.weights.h5",
            "reference/*.json",
        ],
    },
    entry_points={"console_scripts": ["elu-zoo = elu_zoo.cli:main"]},
    install_requires=[
        "argcomplete>=3.1",
        "filelock>=3.12",
        "h5py>=3.10",
        "keras>=3.13.2",
        "matplotlib>=3.8",
        "ml-dtypes>=0.4",
        "numpy>=1.26",
        "pillow>=10.1",
        "tensorflow>=2.20",
        "tqdm>=4.66",
        "wrapt>=1.15",
    ],
    extras_require={
        "export": EXPORT,
        "parquet": ["pyarrow>=15.0"],
        "ray": ["ray[data]>=2.60"],
        "training": [
            "ClusterShell>=1.10",
            "google-crc32c>=1.5",
            "importlib_resources>=6.0",
            "jinja2>=3.1",
            "opencv-python-headless>=4.10",
            "simplejpeg>=1.8",
            "tensorboard>=2.16",
            "tensorflow-datasets>=4.9.7",
        ],
        "test": [
            *EXPORT,
            "jax>=0.5",
            "kubernetes-validate>=1.31",
            "mlflow-skinny>=3.17",
            "psutil>=5.9",
            "pyarrow>=15.0",
            "pytest>=8.0",
            "pytest-xdist>=3.6",
            "ruff>=0.8",
            "setuptools>=77",
            "wheel>=0.40",
        ],
    },
)
