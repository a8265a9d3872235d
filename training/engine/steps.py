"""Training and evaluation steps, compiled for the Keras backend in use.

A step takes this worker's rows of a global batch and computes the update of the whole
batch: on TensorFlow each replica runs on its share inside `strategy.run`, and the
optimizer sums the gradients; on JAX the arrays are sharded, and XLA does the same.

The images of a data set in memory are on the device. A step gathers those of its batch
there and augments them. On JAX one call computes several steps, and the state stays on
the device in between.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from training.data.augmentation import augment
from training.data.batch import Batch
from training.engine.objectives import objective_of
from training.engine.recipe import Recipe
from training.engine.strategy import Placement

# Largest number of steps per call on JAX.
PER_CALL = 16


class Steps:
    """The steps of one run.

    Args:
        model: Keras model that gives logits. Its variables are updated in place; on JAX
            `sync` does that.
        optimizer: Built Keras optimizer; its variables are updated likewise.
        recipe: The recipe.
        placement: The placement in whose scope model and optimizer were made.
        jit: Whether XLA compiles the forward and backward pass. On JAX it always does.
        augmentation: Augmentations for the step to apply.
        resident: Images and labels or targets to keep on the device, or `None`; see
            `training.data.stream.Stream`.
        per_call: Largest number of steps per call of the compiled function. It does not
            change a bit of the result.

    Attributes:
        per_call: As given, or the backend's default.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        recipe: Recipe,
        placement: Placement,
        jit: bool,
        augmentation: Sequence[Any] = (),
        resident: tuple[np.ndarray, np.ndarray] | None = None,
        per_call: int | None = None,
    ) -> None:
        self._model, self._optimizer = model, optimizer
        self._recipe, self._placement, self._jit = recipe, placement, jit
        self._augmentation, self._resident = augmentation, resident
        several = PER_CALL if keras.backend.backend() == "jax" else 1
        self.per_call = per_call or several
        self._compiled: dict[Any, Any] = {}
        self._state: Any = None
        self._pending: Any = None

    def train(self, batches: Sequence[Batch]) -> Any:
        """Updates the weights, one step per batch.

        Args:
            batches: Batches of this worker, at most `per_call`, all of the same image
                size.

        Returns:
            `[loss, error, count]` of each step over the global batch, a float32 array
            on the device of shape `(len(batches), 3)`: the sum of the losses, the
            number of wrong answers (of an autoencoder, the sum of the squared errors),
            and the number of images with weight 1.
        """
        size = batches[0].image_size
        key = ("train", size, _dropout_rates(self._model))
        if key not in self._compiled:
            self._compiled[key] = self._make("train", size)
        return self._compiled[key]([_inputs(batch) for batch in batches])

    def evaluate(self, batch: Batch) -> Any:
        """Evaluates a batch, without dropout and label smoothing.

        It uses the weights in the model's variables; see `sync`.

        Args:
            batch: Batch of this worker.

        Returns:
            `[loss, error, count]` over the global batch, as in `train`.
        """
        if "evaluate" not in self._compiled:
            self._compiled["evaluate"] = self._make("evaluate", None)
        return self._compiled["evaluate"](batch.images, batch.targets, batch.weights)

    def sync(self) -> None:
        """Updates the variables of model and optimizer to the last step."""
        if self._state is None:
            return
        for group, values in zip(self._variables, self._state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        self._state = None

    @property
    def _variables(self) -> tuple[list[keras.Variable], ...]:
        model = self._model
        return (
            model.trainable_variables,
            model.non_trainable_variables,
            self._optimizer.variables,
        )

    def _make(self, kind: str, image_size: int | None) -> Callable[..., Any]:
        smoothing = self._recipe.label_smoothing if kind == "train" else 0.0
        objective = objective_of(self._recipe.model)

        def sums(
            forward: Callable[[Any], Any], images: Any, targets: Any, weights: Any
        ) -> Any:
            images = resize(images, image_size)
            logits = ops.cast(forward(images), "float32")
            losses = objective.losses(logits, images, targets, smoothing)
            errors = objective.errors(logits, images, targets)
            return ops.stack(
                [
                    ops.sum(losses * weights),
                    ops.sum(errors * weights),
                    ops.sum(weights),
                ]
            )

        def finished(resident: Any, inputs: Any) -> tuple[Any, Any, Any]:
            return self._finished(resident, inputs, image_size)

        makers: dict[tuple[str, str], Callable[..., Any]] = {
            ("tensorflow", "train"): self._tensorflow_train,
            ("tensorflow", "evaluate"): self._tensorflow_evaluate,
            ("jax", "train"): self._jax_train,
            ("jax", "evaluate"): self._jax_evaluate,
        }
        make = makers[keras.backend.backend(), kind]
        return make(sums, finished) if kind == "train" else make(sums)

    def _finished(
        self, resident: Any, inputs: Any, image_size: Any
    ) -> tuple[Any, Any, Any]:
        """Images, targets and weights of a batch, augmented."""
        weights = inputs["weights"]
        if resident is None:
            images, targets = inputs["images"], inputs["targets"]
        else:
            images, targets = (ops.take(x, inputs["indices"], axis=0) for x in resident)
            if targets.ndim == 1:
                classes = self._model.output_shape[-1]
                targets = ops.one_hot(targets, classes, dtype="float32")
        if self._augmentation and inputs["draws"]:
            images, targets, weights = augment(
                self._augmentation,
                *(images, targets, weights, inputs["draws"], image_size),
            )
        return images, targets, weights

    def _objective(self, total: Any, replicas: int) -> Any:
        """The value to differentiate; it is summed over parts and replicas."""
        recipe = self._recipe
        value = total[0] / recipe.batch_size
        if recipe.l2:
            kernels = [v for v in self._model.trainable_variables if v.ndim > 1]
            squares = sum(ops.sum(ops.square(ops.cast(v, "float32"))) for v in kernels)
            value += 0.5 * recipe.l2 * squares / (replicas * recipe.accumulation)
        return value

    def _tensorflow_train(
        self, sums: Callable[..., Any], finished: Callable[..., Any]
    ) -> Callable[..., Any]:
        import tensorflow as tf

        model, optimizer, recipe = self._model, self._optimizer, self._recipe
        replicas = self._placement.replicas

        def part(_: Any, images: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                total = sums(
                    lambda x: model(x, training=True), images, targets, weights
                )
                value = self._objective(total, replicas)
            return (), (total, tape.gradient(value, model.trainable_variables))

        @tf.function(jit_compile=self._jit, autograph=False)
        def gradients_of(*inputs: Any) -> Any:
            batch = finished(*inputs)
            return _accumulate(part, (), batch, recipe.accumulation)[1]

        def replica_step(*inputs: Any) -> Any:
            total, gradients = gradients_of(*inputs)
            if recipe.clip_norm is not None:
                context = tf.distribute.get_replica_context()
                factor = _clip_factor(
                    context.all_reduce(tf.distribute.ReduceOp.SUM, gradients),
                    recipe.clip_norm,
                )
                gradients = [gradient * factor for gradient in gradients]
            optimizer.apply(gradients, model.trainable_variables)
            return total

        step, share = self._over_replicas(replica_step)
        return lambda inputs: [step(self._on_device(), share(x)) for x in inputs]

    def _tensorflow_evaluate(self, sums: Callable[..., Any]) -> Callable[..., Any]:
        import tensorflow as tf

        @tf.function(jit_compile=self._jit, autograph=False)
        def replica_step(*batch: Any) -> Any:
            return sums(lambda x: self._model(x, training=False), *batch)

        step, share = self._over_replicas(replica_step)
        return lambda *batch: step(*map(share, batch))

    def _over_replicas(
        self, replica_step: Callable[..., Any]
    ) -> tuple[Callable[..., Any], Callable[[Any], Any]]:
        import tensorflow as tf

        strategy = self._placement.strategy
        local = self._placement.replicas // self._placement.workers

        @tf.function(autograph=False)
        def step(*batch: Any) -> Any:
            return strategy.reduce(
                "SUM", strategy.run(replica_step, args=batch), axis=None
            )

        def share(arrays: Any) -> Any:
            if local == 1 and self._placement.workers == 1:
                return keras.tree.map_structure(tf.convert_to_tensor, arrays)
            return keras.tree.map_structure(
                lambda array: self._values(np.split(array, local)), arrays
            )

        return step, share

    def _values(self, parts: Sequence[Any]) -> Any:
        """One array for each of this worker's replicas."""
        import tensorflow as tf

        return self._placement.strategy.experimental_distribute_values_from_function(
            lambda context: tf.convert_to_tensor(
                parts[context.replica_id_in_sync_group % len(parts)]
            )
        )

    def _on_device(self) -> tuple[Any, ...] | None:
        """The resident arrays; the first call puts them on the devices."""
        if self._resident is None or "resident" in self._compiled:
            return self._compiled.get("resident")
        put: Any
        if keras.backend.backend() == "jax":
            put = self._replicate
        else:
            import tensorflow as tf

            local = self._placement.replicas // self._placement.workers
            alone = self._placement.replicas == 1
            put = tf.convert_to_tensor if alone else lambda x: self._values([x] * local)
        self._compiled["resident"] = tuple(map(put, self._resident))
        return self._compiled["resident"]

    def _jax_train(
        self, sums: Callable[..., Any], finished: Callable[..., Any]
    ) -> Callable[..., Any]:
        import jax

        model, optimizer, recipe = self._model, self._optimizer, self._recipe

        def objective(trainable: Any, others: Any, *batch: Any) -> tuple[Any, Any]:
            def forward(images: Any) -> Any:
                nonlocal others
                logits, others = model.stateless_call(
                    trainable, others, images, training=True
                )
                return logits

            with keras.StatelessScope(
                zip(model.trainable_variables, trainable, strict=True)
            ):
                total = sums(forward, *batch)
                value = self._objective(total, replicas=1)
            return value, (total, others)

        def update(state: Any, *batch: Any) -> tuple[Any, Any]:
            trainable, others, slots = state

            def part(others: Any, *rows: Any) -> tuple[Any, Any]:
                (_, (total, others)), gradients = jax.value_and_grad(
                    objective, has_aux=True
                )(trainable, others, *rows)
                return others, (total, gradients)

            others, (total, gradients) = _accumulate(
                part, others, batch, recipe.accumulation
            )
            if recipe.clip_norm is not None:
                factor = _clip_factor(gradients, recipe.clip_norm)
                gradients = [gradient * factor for gradient in gradients]
            trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
            return (trainable, others, slots), total

        def run(state: Any, resident: Any, inputs: Any, count: Any) -> tuple[Any, Any]:
            def step(number: Any, carried: Any) -> Any:
                state, totals = carried
                chosen = jax.tree.map(lambda x: x[number], inputs)
                state, total = update(state, *finished(resident, chosen))
                return list(map(list, state)), totals.at[number].set(total)

            # Unlike `scan`, whose length is a constant, this compiles to the same
            # program for any number of steps.
            totals = jax.numpy.zeros((self.per_call, 3))
            return jax.lax.fori_loop(0, count, step, (state, totals))

        run = jax.jit(run, donate_argnums=0)

        def train(inputs: Any) -> Any:
            count = len(inputs)
            inputs += inputs[-1:] * (self.per_call - count)
            stacked = jax.tree.map(lambda *x: self._shard(np.stack(x), 1), *inputs)
            self._load()
            self._state, totals = run(self._state, self._on_device(), stacked, count)
            # At most one call may wait for the device.
            jax.block_until_ready(self._pending)
            self._pending = totals
            return totals[:count]

        return train

    def _load(self) -> None:
        """Copies the variables, since a call overwrites the arrays that it is given."""
        import jax

        if self._state is None:
            self._state = [
                [jax.numpy.copy(v.value) for v in group] for group in self._variables
            ]

    def _jax_evaluate(self, sums: Callable[..., Any]) -> Callable[..., Any]:
        import jax

        model = self._model

        @jax.jit
        def evaluate(state: Any, *batch: Any) -> Any:
            return sums(
                lambda x: model.stateless_call(*state, x, training=False)[0], *batch
            )

        def step(*batch: Any) -> Any:
            state = [
                [v.value for v in group]
                for group in (model.trainable_variables, model.non_trainable_variables)
            ]
            return evaluate(state, *map(self._shard, batch))

        return step

    def _shard(self, array: Any, axis: int = 0) -> Any:
        """Puts an array on the devices, split along its example axis."""
        import jax

        if self._placement.strategy is None:
            return array
        spec = jax.sharding.PartitionSpec(*[None] * axis, "batch")
        return jax.device_put(array, jax.sharding.NamedSharding(_mesh(), spec))

    def _replicate(self, array: Any) -> Any:
        import jax

        if self._placement.strategy is None:
            return jax.device_put(array)
        spec = jax.sharding.PartitionSpec()
        return jax.device_put(array, jax.sharding.NamedSharding(_mesh(), spec))


def _mesh() -> Any:
    import jax

    return jax.sharding.Mesh(np.array(jax.devices()), ("batch",))


def _inputs(batch: Batch) -> dict[str, Any]:
    """The part of a batch that travels to the device."""
    inputs = {"weights": batch.weights, "draws": tuple(batch.draws)}
    if batch.images is None:
        return inputs | {"indices": batch.indices.astype("int32")}
    return inputs | {"images": batch.images, "targets": batch.targets}


def _accumulate(
    part: Callable[..., tuple[Any, Any]], state: Any, batch: Sequence[Any], parts: int
) -> tuple[Any, Any]:
    """Sums what `part` returns besides its state over the parts of a batch."""
    if parts == 1:
        return part(state, *batch)
    batch = [ops.reshape(x, (parts, x.shape[0] // parts, *x.shape[1:])) for x in batch]

    def add(index: Any, carried: Any) -> tuple[Any, Any]:
        state, before = carried
        state, now = part(state, *(x[index] for x in batch))
        return state, keras.tree.map_structure(ops.add, before, now)

    return ops.fori_loop(1, parts, add, part(state, *(x[0] for x in batch)))


def _clip_factor(gradients: Sequence[Any], longest: float) -> Any:
    squares = [ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients]
    norm = ops.sqrt(sum(squares))
    return ops.minimum(1.0, longest / ops.maximum(norm, 1e-30))


def _dropout_rates(model: keras.Model) -> tuple[float, ...]:
    return tuple(x.rate for x in model.layers if isinstance(x, keras.layers.Dropout))


def resize(images: Any, size: int | None) -> Any:
    """Resizes images to squares, antialiased, inside the compiled step.

    It computes what `elu_zoo.images.resize` does for one image.

    Args:
        images: Tensor of shape `(n, height, width, channels)`.
        size: Side in pixels; `None` leaves the images as they are.

    Returns:
        float32 images of shape `(n, size, size, channels)`; the same tensor if they
        have that size already.
    """
    if size is None or images.shape[1] == size:
        return images
    images = ops.cast(images, "float32")
    return ops.image.resize(images, (size, size), antialias=True)
