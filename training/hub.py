"""Uploads published weights to the Hugging Face Hub, for `training.publish`."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from elu_zoo import _hub
from elu_zoo.architectures import reconstructs
from elu_zoo.errors import UserError
from training.data.sources import CATALOGUE

_LINK = re.compile(r"(!?)\[([^][]+)\]\(\.\./\.\./([^()\s]+)\)")


def upload(
    name: str,
    repository: str,
    pretrained: pathlib.Path,
    results: pathlib.Path,
) -> str:
    """Uploads published weights, their record, card and results in one commit.

    Creates the repository if it does not exist, and deletes its other weights files.

    Args:
        name: Name of the published weights.
        repository: `"owner/name"` on the Hub.
        pretrained: Folder of the manifest, the weights files and the cards.
        results: Folder of the results.

    Returns:
        The address of the commit, which `elu_zoo.load` takes.

    Raises:
        UserError: If no such weights are published, or without huggingface_hub.
        OSError: If the Hub cannot be reached or refuses the upload.
    """
    try:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    except ImportError as error:
        raise UserError(
            "Expected huggingface_hub to be installed: pip install 'elu-zoo[hub]'."
        ) from error

    manifest = json.loads((pretrained / "manifest.json").read_text("utf-8"))
    if name not in manifest["weights"]:
        raise UserError(
            "Expected the name of published weights, one of "
            f"{sorted(manifest['weights'])}. Received: {name!r}"
        )
    record = manifest["weights"][name]
    content = {
        "README.md": card(
            name, record, repository, (pretrained / f"cards/{name}.md").read_text()
        ).encode(),
        _hub.RECORD: (json.dumps({"name": name} | record, indent=1) + "\n").encode(),
        record["file"]: (pretrained / record["file"]).read_bytes(),
    } | {
        path.name: path.read_bytes()
        for path in (results / name).iterdir()
        if path.is_file()
    }
    api = HfApi(library_name="elu_zoo")
    api.create_repo(repository, exist_ok=True)
    outdated = [
        path
        for path in api.list_repo_files(repository)
        if path.endswith(".weights.h5") and path not in content
    ]
    commit = api.create_commit(
        repository,
        [
            *(CommitOperationAdd(path, data) for path, data in content.items()),
            *map(CommitOperationDelete, outdated),
        ],
        commit_message=f"Publish {name}",
    )
    return f"{_hub.SCHEME}{repository}@{commit.oid}"


def card(name: str, record: Mapping[str, Any], repository: str, text: str) -> str:
    """Makes the card of the Hub from that of this repository.

    Args:
        name: Name of the published weights.
        record: Their record in the manifest.
        repository: `"owner/name"` on the Hub.
        text: The card in `pretrained/cards`.

    Returns:
        Markdown with the Hub's header. Its links lead to files uploaded with the card.
    """

    def relinked(link: re.Match[str]) -> str:
        image, label, target = link.groups()
        file = pathlib.PurePosixPath(target)
        uploaded = file.parent.name == name and file.suffix
        return f"{image}[{label}]({file.name})" if uploaded else label

    title, rest = text.split("\n", 1)
    load = f'elu_zoo.load("{_hub.SCHEME}{repository}")'
    return (
        f"---\n{header(name, record)}\n---\n{title}\n\n"
        f"    pip install 'elu-zoo[hub]'\n    python -c 'import elu_zoo; {load}'\n"
        + _LINK.sub(relinked, rest)
    )


def header(name: str, record: Mapping[str, Any]) -> str:
    """Describes weights in the YAML that the Hub reads.

    Args:
        name: Name of the weights.
        record: Their record in the manifest.

    Returns:
        The text between the lines `---`.
    """
    from huggingface_hub import EvalResult, ModelCardData

    dataset, metrics = record["dataset"]["name"], record["metrics"]
    on_hub = CATALOGUE[dataset].hub
    decodes = reconstructs(record["model"])
    task = "image-feature-extraction" if decodes else "image-classification"
    scores = (
        {"mse": metrics["reconstruction_error"]}
        if decodes
        else {"accuracy": round(1 - metrics["error"], 4)}
    )
    return ModelCardData(
        license="apache-2.0",
        library_name="elu_zoo",
        pipeline_tag=task,
        tags=["keras", "elu", "arxiv:1511.07289"],
        datasets=[on_hub] if on_hub else None,
        metrics=list(scores),
        model_name=name,
        eval_results=[
            EvalResult(
                task_type=task,
                dataset_type=on_hub or dataset,
                dataset_name=dataset,
                dataset_split="test",
                metric_type=metric,
                metric_value=value,
            )
            for metric, value in scores.items()
        ],
    ).to_yaml()
