"""One training step and one forward pass, compiled for the Keras backend in use."""

import keras
import numpy as np
from keras import ops


def make_train_step(model, optimizer, loss, image_size, jit):
    """The function that does one step.

    Args:
        model: Keras model that gives logits; its variables are updated in place.
        optimizer: Built Keras optimizer, likewise.
        loss: Keras loss of `(targets, logits)`.
        image_size: Side in pixels that the images are resized to.
        jit: Whether XLA compiles the step. JAX always does.

    Returns:
        A function of `images` (uint8, NHWC) and one-hot `targets` (float32) that
        returns the loss and the number of correct predictions as scalars on the device.
    """

    def measure(images, targets, forward):
        logits = forward(resize(images, image_size))
        value = loss(targets, logits)
        hits = ops.argmax(logits, -1) == ops.argmax(targets, -1)
        return value, ops.sum(ops.cast(hits, "int32"))

    if keras.backend.backend() == "jax":
        return _jax_step(model, optimizer, measure)
    return _tensorflow_step(model, optimizer, measure, jit)


def _tensorflow_step(model, optimizer, measure, jit):
    import tensorflow as tf

    @tf.function(jit_compile=jit, autograph=False)
    def step(images, targets):
        with tf.GradientTape() as tape:
            value, correct = measure(
                images, targets, lambda images: model(images, training=True)
            )
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        return value, correct

    return step


def _jax_step(model, optimizer, measure):
    import jax

    def objective(trainable, others, images, targets):
        def forward(images):
            nonlocal others
            logits, others = model.stateless_call(
                trainable, others, images, training=True
            )
            return logits

        value, correct = measure(images, targets, forward)
        return value, (correct, others)

    @jax.jit
    def update(state, images, targets):
        trainable, others, slots = state
        (value, (correct, others)), gradients = jax.value_and_grad(
            objective, has_aux=True
        )(trainable, others, images, targets)
        trainable, slots = optimizer.stateless_apply(slots, gradients, trainable)
        return (trainable, others, slots), value, correct

    variables = (
        model.trainable_variables,
        model.non_trainable_variables,
        optimizer.variables,
    )

    def step(images, targets):
        state = [[v.value for v in group] for group in variables]
        state, value, correct = update(state, images, targets)
        for group, values in zip(variables, state, strict=True):
            for variable, new in zip(group, values, strict=True):
                variable.assign(new)
        return value, correct

    return step


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


def predict(model, images, batch_size=250):
    """Outputs of the model for all images, the last, smaller batch included.

    Args:
        model: Keras model.
        images: Array of images, NHWC.
        batch_size: Images at a time.

    Returns:
        A float32 array of shape `(len(images), classes)`.
    """
    if keras.backend.backend() == "jax":
        return _jax_predict(model, images, batch_size)
    model.compile(jit_compile=False)
    outputs = model.predict(images, batch_size=batch_size, verbose=0)
    return np.asarray(outputs, "float32")


def _jax_predict(model, images, batch_size):
    """Keras's `predict` would give away the arrays of the variables.

    They can be the optimizer's too: those of the averages, after these were assigned.
    """
    import jax

    if not model.built:
        model.build((None, *images.shape[1:]))
    variables = [
        [v.value for v in group]
        for group in (model.trainable_variables, model.non_trainable_variables)
    ]
    forward = jax.jit(lambda v, x: model.stateless_call(*v, x, training=False)[0])
    batches = np.split(images, range(batch_size, len(images), batch_size))
    outputs = [forward(variables, batch) for batch in batches]
    return np.concatenate(outputs).astype("float32")
