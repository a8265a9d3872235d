"""Small networks trained for all seeds at once, by `jax.vmap` and `jax.lax.scan`.

A step of such a network is so short that dispatching it would take longer. It needs
Keras's JAX backend.
"""

import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from elu_zoo.errors import UserError
from elu_zoo.files import replacing


def checkpoint_path(
    folder: pathlib.Path, variant: str, seeds: Sequence[int], quick: bool
) -> pathlib.Path:
    """Names the checkpoint of an experiment's run.

    Args:
        folder: Folder of the checkpoints.
        variant: Name of the variant.
        seeds: Seeds that are trained at once.
        quick: Whether it is a quick trial.

    Returns:
        The path of an `.npz` file.
    """
    numbers = "_".join(map(str, seeds))
    return folder / f"{variant.replace(' ', '-')}-{numbers}{'-quick' * quick}.npz"


def train_together(
    build: Callable[[], keras.Model],
    batch_loss: Callable[..., Any],
    metrics: Callable[..., Mapping[str, Any]],
    images: np.ndarray,
    targets: np.ndarray,
    *,
    seeds: Sequence[int],
    epochs: int,
    learning_rate: float,
    batch_size: int,
    checkpoint: pathlib.Path,
    checkpoint_every: int = 10,
) -> list[dict[str, Any]]:
    """Trains copies of a network by SGD that differ only in their seeds.

    A seed determines the initialization and the order of the images; nothing else is
    random. A run that is started again resumes from its checkpoint.

    Args:
        build: Returns the network; called after each seed is set.
        batch_loss: Called with the outputs of the network, the images and the targets
            of a batch; returns the loss, a scalar.
        metrics: Called once per epoch with a function that maps the values of the
            network's variables and images to its outputs, and with these values of one
            seed; returns a dict of scalars.
        images: Array of shape `(n, height, width, channels)`: training images.
        targets: Array with one training target per image.
        seeds: The seeds.
        epochs: Number of passes over the images. The last, smaller batch of each is
            left out.
        learning_rate: Constant learning rate of plain SGD.
        batch_size: Number of images per step and seed.
        checkpoint: Path of the `.npz` file to resume from.
        checkpoint_every: Number of epochs between checkpoints.

    Returns:
        A dict per epoch and seed: `seed`, `epoch`, `train_loss` (the mean over the
        epoch's batches) and the metrics. Epoch 0 is before the first step and has no
        `train_loss`.

    Raises:
        UserError: If the checkpoint is of a run with different settings.
    """
    import jax

    models = [_seeded(build, seed) for seed in seeds]
    model = models[0]
    values = [
        np.stack([np.asarray(v) for v in same])
        for same in zip(*(m.trainable_variables for m in models), strict=True)
    ]
    others = [np.asarray(v) for v in model.non_trainable_variables]
    images, targets = jax.device_put(images), jax.device_put(targets)

    def forward(values: Any, images: Any) -> Any:
        return model.stateless_call(values, others, images)[0]

    def loss_of(values: Any, numbers: Any) -> Any:
        batch = images[numbers]
        return batch_loss(forward(values, batch), batch, targets[numbers])

    def step(values: Any, numbers: Any) -> tuple[Any, Any]:
        loss, gradients = jax.value_and_grad(loss_of)(values, numbers)
        moved = [v - learning_rate * g for v, g in zip(values, gradients, strict=True)]
        return moved, loss

    epoch_of = jax.jit(
        lambda values, order: jax.lax.scan(jax.vmap(step), values, order),
        donate_argnums=0,
    )
    measure = jax.jit(jax.vmap(lambda values: metrics(forward, values)))
    settings = {
        "seeds": list(seeds),
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "examples": len(images),
        "initializers": _initializers(model),
        # Loss, network and metrics.
        "computation": _digest(
            jax.make_jaxpr(step)([v[0] for v in values], np.zeros(batch_size, int)),
            jax.make_jaxpr(measure)(values),
        ),
    }
    rows, values = _restored(checkpoint, settings, values)

    def add_rows(epoch: int, losses: np.ndarray | None = None) -> None:
        measured = {k: np.asarray(v) for k, v in measure(values).items()}
        for index, seed in enumerate(seeds):
            row: dict[str, Any] = {"seed": seed, "epoch": epoch}
            row["train_loss"] = "" if losses is None else float(losses[index])
            rows.append(row | {k: float(v[index]) for k, v in measured.items()})

    values = [jax.device_put(v) for v in values]
    if not rows:
        add_rows(0)
    for epoch in range(rows[-1]["epoch"] + 1, epochs + 1):
        order = np.stack([_order(s, epoch, len(images), batch_size) for s in seeds], 1)
        values, losses = epoch_of(values, order)
        add_rows(epoch, np.asarray(losses).mean(0))
        if epoch % checkpoint_every == 0 or epoch == epochs:
            _save(checkpoint, settings, values, rows)
    return [row for row in rows if row["epoch"] <= epochs]


def _seeded(build: Callable[[], keras.Model], seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    return build()


def _initializers(model: keras.Model) -> list[Any]:
    return [
        keras.initializers.serialize(layer.kernel_initializer)
        for layer in model.layers
        if hasattr(layer, "kernel_initializer")
    ]


def _digest(*computations: Any) -> str:
    """The SHA-256 of computations as JAX prints them, without addresses in memory."""
    text = re.sub("0x[0-9a-f]+", "", "\n".join(map(str, computations)))
    return hashlib.sha256(text.encode()).hexdigest()


def _order(seed: int, epoch: int, count: int, batch_size: int) -> np.ndarray:
    """Numbers of the images of each step of an epoch, `(steps, batch_size)`."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    steps = count // batch_size
    return order[: steps * batch_size].reshape(steps, batch_size).astype("int32")


def _save(
    path: pathlib.Path,
    settings: Mapping[str, Any],
    values: Any,
    rows: list[dict[str, Any]],
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"settings": settings, "rows": rows})
    arrays: dict[str, Any] = {f"value{i}": np.asarray(v) for i, v in enumerate(values)}
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, facts=np.frombuffer(text.encode(), np.uint8), **arrays)


def _restored(
    path: pathlib.Path, settings: Mapping[str, Any], values: list[np.ndarray]
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Rows and values of the checkpoint; no rows and the given values without one."""
    if not path.is_file():
        return [], values
    with np.load(path, allow_pickle=False) as file:
        facts = json.loads(file["facts"].tobytes())
        saved = [file[f"value{i}"] for i in range(len(values))]
    if facts["settings"] != settings:
        raise UserError(
            f"Expected {path} to be of a run with the settings {settings}. Received: "
            f"{facts['settings']}. Move it away to start afresh."
        )
    return facts["rows"], saved
