"""Training and evaluation steps, compiled for the Keras backend in use.

A step gets this worker's rows of a global batch and computes what the whole batch
gives: on TensorFlow each replica runs on its share inside `strategy.run` and the
optimizer sums the gradients; on JAX the arrays are sharded and XLA does the same.
"""

import keras
import numpy as np
from keras import ops


class Steps:
    """The steps of one run.

    Args:
        model: Keras model that gives logits; its variables are updated in place.
        optimizer: Built Keras optimizer, likewise.
        recipe: `Recipe`.
        placement: `training.engine.strategy.Placement` that both were made in.
        jit: Whether XLA compiles forward and backward pass. JAX always does.
    """

    def __init__(self, model, optimizer, recipe, placement, jit):
        self._model, self._optimizer = model, optimizer
        self._recipe, self._placement, self._jit = recipe, placement, jit
        self._compiled = {}

    def train(self, batch):
        """Updates the weights by one step.

        Args:
            batch: `training.data.batch.Batch` of this worker.

        Returns:
            `[loss, correct, count]` over the global batch, an array on the device: the
            sum of the losses, the number of right answers, the number of images that
            weigh.
        """
        key = ("train", batch.image_size, _dropout_rates(self._model))
        if key not in self._compiled:
            self._compiled[key] = self._make("train", batch.image_size)
        return self._compiled[key](batch.images, batch.targets, batch.weights)

    def evaluate(self, batch):
        """Like `train` without the update, dropout and label smoothing."""
        if "evaluate" not in self._compiled:
            self._compiled["evaluate"] = self._make("evaluate", None)
        return self._compiled["evaluate"](batch.images, batch.targets, batch.weights)

    def _make(self, kind, image_size):
        smoothing = self._recipe.label_smoothing if kind == "train" else 0.0
        losses = keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=smoothing, reduction=None
        )

        def sums(forward, images, targets, weights):
            logits = ops.cast(forward(resize(images, image_size)), "float32")
            hits = ops.argmax(logits, -1) == ops.argmax(targets, -1)
            return ops.stack(
                [
                    ops.sum(losses(targets, logits) * weights),
                    ops.sum(ops.cast(hits, "float32") * weights),
                    ops.sum(weights),
                ]
            )

        make = {
            ("tensorflow", "train"): self._tensorflow_train,
            ("tensorflow", "evaluate"): self._tensorflow_evaluate,
            ("jax", "train"): self._jax_train,
            ("jax", "evaluate"): self._jax_evaluate,
        }
        return make[keras.backend.backend(), kind](sums)

    def _objective(self, total, replicas):
        """What the gradients are of, summed over parts and replicas."""
        recipe = self._recipe
        value = total[0] / recipe.batch_size
        if recipe.l2:
            kernels = [v for v in self._model.trainable_variables if v.ndim > 1]
            squares = sum(ops.sum(ops.square(ops.cast(v, "float32"))) for v in kernels)
            value += 0.5 * recipe.l2 * squares / (replicas * recipe.accumulation)
        return value

    def _tensorflow_train(self, sums):
        import tensorflow as tf

        model, optimizer, recipe = self._model, self._optimizer, self._recipe
        replicas = self._placement.replicas

        def part(_, images, targets, weights):
            with tf.GradientTape() as tape:
                total = sums(
                    lambda x: model(x, training=True), images, targets, weights
                )
                value = self._objective(total, replicas)
            return (), (total, tape.gradient(value, model.trainable_variables))

        @tf.function(jit_compile=self._jit, autograph=False)
        def gradients_of(*batch):
            return _accumulate(part, (), batch, recipe.accumulation)[1]

        def replica_step(*batch):
            total, gradients = gradients_of(*batch)
            if recipe.clip_norm is not None:
                context = tf.distribute.get_replica_context()
                factor = _clip_factor(
                    context.all_reduce(tf.distribute.ReduceOp.SUM, gradients),
                    recipe.clip_norm,
                )
                gradients = [gradient * factor for gradient in gradients]
            optimizer.apply(gradients, model.trainable_variables)
            return total

        return self._over_replicas(replica_step)

    def _tensorflow_evaluate(self, sums):
        import tensorflow as tf

        @tf.function(jit_compile=self._jit, autograph=False)
        def replica_step(*batch):
            return sums(lambda x: self._model(x, training=False), *batch)

        return self._over_replicas(replica_step)

    def _over_replicas(self, replica_step):
        import tensorflow as tf

        strategy = self._placement.strategy
        local = self._placement.replicas // self._placement.workers

        @tf.function(autograph=False)
        def step(*batch):
            return strategy.reduce(
                "SUM", strategy.run(replica_step, args=batch), axis=None
            )

        def share(array):
            if local == 1 and self._placement.workers == 1:
                return tf.convert_to_tensor(array)
            parts = np.split(array, local)
            return strategy.experimental_distribute_values_from_function(
                lambda context: tf.convert_to_tensor(
                    parts[context.replica_id_in_sync_group % local]
                )
            )

        return lambda *batch: step(*map(share, batch))

    def _jax_train(self, sums):
        import jax

        model, optimizer, recipe = self._model, self._optimizer, self._recipe

        def objective(trainable, others, *batch):
            def forward(images):
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

        def update(state, *batch):
            trainable, others, slots = state

            def part(others, *rows):
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

        variables = (
            model.trainable_variables,
            model.non_trainable_variables,
            optimizer.variables,
        )
        update = jax.jit(update)

        def step(*batch):
            state = [[v.value for v in group] for group in variables]
            state, total = update(state, *map(self._shard, batch))
            for group, values in zip(variables, state, strict=True):
                for variable, new in zip(group, values, strict=True):
                    variable.assign(new)
            return total

        return step

    def _jax_evaluate(self, sums):
        import jax

        model = self._model

        @jax.jit
        def evaluate(state, *batch):
            return sums(
                lambda x: model.stateless_call(*state, x, training=False)[0], *batch
            )

        def step(*batch):
            state = [
                [v.value for v in group]
                for group in (model.trainable_variables, model.non_trainable_variables)
            ]
            return evaluate(state, *map(self._shard, batch))

        return step

    def _shard(self, array):
        import jax

        if self._placement.strategy is None:
            return array
        mesh = jax.sharding.Mesh(np.array(jax.devices()), ("batch",))
        spec = jax.sharding.PartitionSpec("batch")
        return jax.device_put(array, jax.sharding.NamedSharding(mesh, spec))


def _accumulate(part, state, batch, parts):
    """Sum over the parts of a batch of what `part` returns beside its state."""
    if parts == 1:
        return part(state, *batch)
    batch = [ops.reshape(x, (parts, x.shape[0] // parts, *x.shape[1:])) for x in batch]

    def add(index, carried):
        state, before = carried
        state, now = part(state, *(x[index] for x in batch))
        return state, keras.tree.map_structure(ops.add, before, now)

    return ops.fori_loop(1, parts, add, part(state, *(x[0] for x in batch)))


def _clip_factor(gradients, longest):
    squares = [ops.sum(ops.square(ops.cast(g, "float32"))) for g in gradients]
    norm = ops.sqrt(sum(squares))
    return ops.minimum(1.0, longest / ops.maximum(norm, 1e-30))


def _dropout_rates(model):
    return tuple(x.rate for x in model.layers if isinstance(x, keras.layers.Dropout))


def resize(images, size):
    """Square images of another side, float32 and antialiased.

    Args:
        images: Array of shape `(batch, height, width, channels)`.
        size: Side in pixels, or `None` to leave them as they are.

    Returns:
        The images; the same array if they have that size already.
    """
    if size is None or images.shape[1] == size:
        return images
    images = ops.cast(images, "float32")
    return ops.image.resize(images, (size, size), antialias=True)
