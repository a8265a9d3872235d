"""Fine-tuning: freezing and two stages."""

import keras
import numpy as np

from elu_zoo.feature_extraction import stack_layers
from elu_zoo.optimizers import LayerwiseAdam, stack_factors
from elu_zoo.predictions import gives_logits


def freeze(model, stacks=None):
    """Freezes the trunk of a network, or part of it.

    Compile the model afterwards: Keras decides then what is trained. There is nothing
    else to watch: without normalization layers a frozen layer computes the same in
    training and inference.

    Args:
        model: Keras model made by a model function of `elu_zoo`.
        stacks: Number of stacks to freeze, counted from the input; 0 for none. Default:
            all, so that the output layer alone is trained.

    Returns:
        The number of parameters that are left to train.

    Raises:
        ValueError: If the model has no stacks, or not so many.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(classes=5, width=0.1)
    >>> freeze(model)
    155
    >>> freeze(model, stacks=0) == model.count_params() - 6
    True
    """
    named = list(stack_layers(model).values())
    if stacks is None:
        stacks = len(named)
    if stacks not in range(len(named) + 1):
        raise ValueError(
            f"Expected the number of stacks to freeze, from 0 to {len(named)}. "
            f"Received: stacks={stacks!r}"
        )
    # The output layer, or the model as a whole, may have been frozen before.
    for layer in (model, *model.layers):
        layer.trainable = True
    for number, layers in enumerate(named, start=1):
        for layer in layers:
            layer.trainable = number > stacks
    return sum(int(np.prod(v.shape)) for v in model.trainable_variables)


def finetune(
    model,
    images,
    labels,
    validation_data=None,
    *,
    epochs=(5, 10),
    learning_rate=(3e-3, 3e-4),
    rate_decay=0.7,
    batch_size=32,
    augment=True,
    seed=0,
    verbose="auto",
):
    """Trains the output layer alone, then the whole network at a lower rate.

    Two calls of Keras's `fit` with Adam and a cosine schedule each. The first keeps the
    random output layer from spoiling the pretrained ones. Rates and epochs did best, in
    the mean of two tasks, in docs/results/transfer_candidates.csv.

    Args:
        model: Keras model that gives probabilities or logits, such as
            `ELUNet11(weights="cifar100", classes=5)`. Trained in place, and left
            compiled, and frozen, as in its last stage.
        images: Array of shape `(n, height, width, channels)`, values from 0 to 255.
        labels: Integer array of shape `(n,)`.
        validation_data: Optional `(images, labels)`, for the progress bar and history.
        epochs: Epochs of the two stages; 0 leaves a stage out.
        learning_rate: Highest learning rates of the two stages.
        rate_decay: Factor of the second learning rate from each stack to the one before
            it; 1 trains all stacks at the same rate. See
            `elu_zoo.optimizers.LayerwiseAdam`.
        batch_size: Images a step; the last batch of an epoch may be smaller.
        augment: Whether to flip images at random and shift them by up to an eighth.
        seed: Of order and augmentation.
        verbose: As in `fit`.

    Returns:
        A dict of lists, one value per epoch, as in Keras's `History.history`.

    Raises:
        ValueError: If images and labels do not fit each other or the model.
        RuntimeError: If a frozen weight changed.

    Example:

    >>> import elu_zoo
    >>> model = elu_zoo.ELUNet11(classes=2, width=0.05)
    >>> images = np.zeros((8, 32, 32, 3), "uint8")
    >>> history = finetune(model, images, np.arange(8) % 2, epochs=(1, 1), verbose=0)
    >>> len(history["loss"])
    2
    """
    labels = np.asarray(labels)
    classes = model.output_shape[-1]
    if labels.shape != (len(images),) or not len(images):
        raise ValueError(
            "Expected one label an image, and at least one image. Received: "
            f"{len(images)} images, labels of shape {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"Expected labels from 0 to {classes - 1}, the model's classes. "
            f"Received: {labels.min()} to {labels.max()}"
        )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=gives_logits(model))
    history = {}
    for stage, (count, rate) in enumerate(zip(epochs, learning_rate, strict=True)):
        if not count:
            continue
        freeze(model, None if stage == 0 else 0)
        batches = _Batches(images, labels, batch_size, augment, (seed, stage))
        model.compile(
            LayerwiseAdam(
                keras.optimizers.schedules.CosineDecay(rate, count * len(batches)),
                stack_factors(model, rate_decay),
            ),
            loss,
            metrics=["accuracy"],
        )
        frozen = [(v, np.array(v)) for v in model.non_trainable_variables]
        # The batches have their own order; Keras's would not be that of the seed.
        result = model.fit(
            batches,
            epochs=count,
            validation_data=validation_data,
            verbose=verbose,
            shuffle=False,
        )
        _check_unmoved(frozen)
        for name, values in result.history.items():
            history.setdefault(name, []).extend(values)
    return history


def _check_unmoved(frozen):
    for variable, before in frozen:
        if "seed_generator" not in variable.path and "moving_" not in variable.path:
            if not np.array_equal(np.array(variable), before):
                raise RuntimeError(f"The frozen weight {variable.path} changed.")


class _Batches(keras.utils.PyDataset):
    """Shuffled and augmented batches, the same for the same seed."""

    def __init__(self, images, labels, batch_size, augment, seed):
        super().__init__()
        self.images, self.labels = np.asarray(images), labels
        self.batch_size, self.augment = batch_size, augment
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def __len__(self):
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, index):
        chosen = self.order[index * self.batch_size :][: self.batch_size]
        images = self.images[chosen]
        if self.augment:
            images = np.stack([self._augmented(image) for image in images])
        return images, self.labels[chosen]

    def on_epoch_end(self):
        self.order = self.rng.permutation(len(self.images))

    def _augmented(self, image):
        if self.rng.random() < 0.5:
            image = image[:, ::-1]
        height, width = image.shape[:2]
        y, x = height // 8, width // 8
        padded = np.pad(image, ((y, y), (x, x), (0, 0)), mode="reflect")
        top, left = self.rng.integers(0, (2 * y + 1, 2 * x + 1))
        return padded[top : top + height, left : left + width]


def split_by_class(labels, share, seed=0):
    """Splits examples at random, with the same share held out of every class.

    Args:
        labels: Integer array of shape `(n,)`.
        share: Share of each class to hold out, at least one example of it.
        seed: Integer.

    Returns:
        Two sorted arrays of indices: those to train on, those held out.

    Raises:
        ValueError: If a class has fewer than two examples, or `share` is not between
            0 and 1.

    Example:

    >>> split_by_class(np.array([0, 0, 1, 1]), 0.5)[1].shape
    (2,)
    """
    if not 0 < share < 1:
        raise ValueError(f"Expected a share between 0 and 1. Received: share={share!r}")
    rng = np.random.default_rng(seed)
    held_out = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        if len(members) < 2:
            raise ValueError(
                "Expected at least two images of each class, one to hold out. "
                f"Received: one of class {label}"
            )
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held_out.extend(members[:count])
    held_out = np.sort(held_out)
    return np.setdiff1d(np.arange(len(labels)), held_out), held_out
