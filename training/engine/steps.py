"""Training and evaluation steps, compiled for the Keras backend in use.

A step gets this worker's rows of a global batch and computes what the whole batch
gives: on TensorFlow each replica runs on its share inside `strategy.run` and the
optimizer sums the gradients; on JAX the arrays are sharded and XLA does the same.

The images of a data set in memory are on the device. A step gathers those of its batch
there and applies the augmentations to them. On JAX one call computes several steps, and
the state stays on the device in between.
"""

import keras
import numpy as np
from keras import ops

from training.data.augmentation import augment

# Steps that one call computes on JAX, at most.
PER_CALL = 16


class Steps:
    """The steps of one run.

    Args:
        model: Keras model that gives logits; its variables are updated in place, on JAX
            by `sync`.
        optimizer: Built Keras optimizer, likewise.
        recipe: `Recipe`.
        placement: `training.engine.strategy.Placement` that both were made in.
        jit: Whether XLA compiles forward and backward pass. JAX always does.
        augmentation: Augmentations for the step to apply.
        resident: Images and labels to keep on the device, or `None`; see
            `training.data.stream.Stream`.
        per_call: Steps that one call of the compiled function computes, at most; it
            changes no bit of the result.
    """

    def __init__(
        self,
        model,
        optimizer,
        recipe,
        placement,
        jit,
        augmentation=(),
        resident=None,
        per_call=None,
    ):
        self._model, self._optimizer = model, optimizer
        self._recipe, self._placement, self._jit = recipe, placement, jit
        self._augmentation, self._resident = augmentation, resident
        several = PER_CALL if keras.backend.backend() == "jax" else 1
        self.per_call = per_call or several
        self._compiled, self._state, self._pending = {}, None, None

    def train(self, batches):
        """Updates the weights by some steps.

        Args:
            batches: List of `training.data.batch.Batch` of this worker, all of one
                image size, at most `per_call`.

        Returns:
            `[loss, correct, count]` of each step over the global batch, an array on the
            device of shape `(len(batches), 3)`: the sum of the losses, the number of
            right answers, the number of images that weigh.
        """
        size = batches[0].image_size
        key = ("train", size, _dropout_rates(self._model))
        if key not in self._compiled:
            self._compiled[key] = self._make("train", size)
        return self._compiled[key]([_inputs(batch) for batch in batches])

    def evaluate(self, batch):
        """Like `train` of one batch, without update, dropout and label smoothing.

        It sees the weights of the model's variables, see `sync`.
        """
        if "evaluate" not in self._compiled:
            self._compiled["evaluate"] = self._make("evaluate", None)
        return self._compiled["evaluate"](batch.images, batch.targets, batch.weights)

    def sync(self):
        """Gives the variables of model and optimizer the values after the last step."""
        if self._state is None:
            return
        for group, values in zip(self._variables, self._state, strict=True):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value)
        self._state = None

    @property
    def _variables(self):
        model = self._model
        return (
            model.trainable_variables,
            model.non_trainable_variables,
            self._optimizer.variables,
        )

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

        def finished(resident, inputs):
            return self._finished(resident, inputs, image_size)

        make = {
            ("tensorflow", "train"): self._tensorflow_train,
            ("tensorflow", "evaluate"): self._tensorflow_evaluate,
            ("jax", "train"): self._jax_train,
            ("jax", "evaluate"): self._jax_evaluate,
        }[keras.backend.backend(), kind]
        return make(sums, finished) if kind == "train" else make(sums)

    def _finished(self, resident, inputs, image_size):
        """Images, targets and weights of a batch, augmented."""
        weights = inputs["weights"]
        if resident is None:
            images, targets = inputs["images"], inputs["targets"]
        else:
            images, labels = (ops.take(x, inputs["indices"], axis=0) for x in resident)
            classes = self._model.output_shape[-1]
            targets = ops.one_hot(labels, classes, dtype="float32")
        if self._augmentation and inputs["draws"]:
            images, targets, weights = augment(
                self._augmentation,
                *(images, targets, weights, inputs["draws"], image_size),
            )
        return images, targets, weights

    def _objective(self, total, replicas):
        """What the gradients are of, summed over parts and replicas."""
        recipe = self._recipe
        value = total[0] / recipe.batch_size
        if recipe.l2:
            kernels = [v for v in self._model.trainable_variables if v.ndim > 1]
            squares = sum(ops.sum(ops.square(ops.cast(v, "float32"))) for v in kernels)
            value += 0.5 * recipe.l2 * squares / (replicas * recipe.accumulation)
        return value

    def _tensorflow_train(self, sums, finished):
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
        def gradients_of(*inputs):
            batch = finished(*inputs)
            return _accumulate(part, (), batch, recipe.accumulation)[1]

        def replica_step(*inputs):
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

    def _tensorflow_evaluate(self, sums):
        import tensorflow as tf

        @tf.function(jit_compile=self._jit, autograph=False)
        def replica_step(*batch):
            return sums(lambda x: self._model(x, training=False), *batch)

        step, share = self._over_replicas(replica_step)
        return lambda *batch: step(*map(share, batch))

    def _over_replicas(self, replica_step):
        import tensorflow as tf

        strategy = self._placement.strategy
        local = self._placement.replicas // self._placement.workers

        @tf.function(autograph=False)
        def step(*batch):
            return strategy.reduce(
                "SUM", strategy.run(replica_step, args=batch), axis=None
            )

        def share(arrays):
            if local == 1 and self._placement.workers == 1:
                return keras.tree.map_structure(tf.convert_to_tensor, arrays)
            return keras.tree.map_structure(
                lambda array: self._values(np.split(array, local)), arrays
            )

        return step, share

    def _values(self, parts):
        """One array for each of this worker's replicas."""
        import tensorflow as tf

        return self._placement.strategy.experimental_distribute_values_from_function(
            lambda context: tf.convert_to_tensor(
                parts[context.replica_id_in_sync_group % len(parts)]
            )
        )

    def _on_device(self):
        """The resident images and labels, put on the devices at the first call."""
        if self._resident is None or "resident" in self._compiled:
            return self._compiled.get("resident")
        if keras.backend.backend() == "jax":
            put = self._replicate
        else:
            import tensorflow as tf

            local = self._placement.replicas // self._placement.workers
            alone = self._placement.replicas == 1
            put = tf.convert_to_tensor if alone else lambda x: self._values([x] * local)
        self._compiled["resident"] = tuple(map(put, self._resident))
        return self._compiled["resident"]

    def _jax_train(self, sums, finished):
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

        def run(state, resident, inputs, count):
            def step(number, carried):
                state, totals = carried
                chosen = jax.tree.map(lambda x: x[number], inputs)
                state, total = update(state, *finished(resident, chosen))
                return list(map(list, state)), totals.at[number].set(total)

            # Unlike `scan`, whose length is a constant of the program, this compiles to
            # the same code for any number of steps.
            totals = jax.numpy.zeros((self.per_call, 3))
            return jax.lax.fori_loop(0, count, step, (state, totals))

        run = jax.jit(run, donate_argnums=0)

        def train(inputs):
            count = len(inputs)
            inputs += inputs[-1:] * (self.per_call - count)
            stacked = jax.tree.map(lambda *x: self._shard(np.stack(x), 1), *inputs)
            self._load()
            self._state, totals = run(self._state, self._on_device(), stacked, count)
            # One call may wait for its turn on the device, not more.
            jax.block_until_ready(self._pending)
            self._pending = totals
            return totals[:count]

        return train

    def _load(self):
        """Copies the variables: a call overwrites the arrays that it is given."""
        import jax

        if self._state is None:
            self._state = [
                [jax.numpy.copy(v.value) for v in group] for group in self._variables
            ]

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

    def _shard(self, array, axis=0):
        """Puts an array on the devices, split along its axis of examples."""
        import jax

        if self._placement.strategy is None:
            return array
        spec = jax.sharding.PartitionSpec(*[None] * axis, "batch")
        return jax.device_put(array, jax.sharding.NamedSharding(_mesh(), spec))

    def _replicate(self, array):
        import jax

        if self._placement.strategy is None:
            return jax.device_put(array)
        spec = jax.sharding.PartitionSpec()
        return jax.device_put(array, jax.sharding.NamedSharding(_mesh(), spec))


def _mesh():
    import jax

    return jax.sharding.Mesh(np.array(jax.devices()), ("batch",))


def _inputs(batch):
    """What of a batch travels to the device."""
    inputs = {"weights": batch.weights, "draws": tuple(batch.draws)}
    if batch.images is None:
        return inputs | {"indices": batch.indices.astype("int32")}
    return inputs | {"images": batch.images, "targets": batch.targets}


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

    `elu_zoo.images.resize` of a batch inside the compiled step.

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
