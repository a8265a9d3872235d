"""What pyproject.toml cannot say: the packages found, and the weights that stay out."""

import json
import pathlib

from setuptools import find_packages, setup

MANIFEST = pathlib.Path(__file__).parent / "pretrained/manifest.json"
RECORDS = json.loads(MANIFEST.read_text("utf-8"))["weights"].values()

setup(
    packages=[*find_packages(include=["elu_zoo", "elu_zoo.*"]), "elu_zoo.pretrained"],
    # Large files are fetched: `elu-zoo fetch NAME`.
    exclude_package_data={
        "elu_zoo.pretrained": [
            record["file"] for record in RECORDS if not record.get("packaged", True)
        ]
    },
)
