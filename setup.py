"""What pyproject.toml cannot say: the packages found, and one that lies elsewhere."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["elu_zoo", "elu_zoo.*"]), "elu_zoo.pretrained"])
