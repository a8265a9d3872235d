"""MLServer runtime for the SavedModels of `elu_zoo.export_saved_model`.

A request has the inputs of one signature, by name: `image_bytes` or `image`.
"""

import asyncio
import pathlib

import tensorflow as tf
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceResponse
from mlserver.utils import get_model_uri


class SavedModel(MLModel):
    async def load(self):
        folder = pathlib.Path(await get_model_uri(self.settings))
        versions = [path for path in folder.iterdir() if path.name.isdecimal()]
        newest = max(versions, key=lambda path: int(path.name))
        self.model = tf.saved_model.load(str(newest))
        return True

    async def predict(self, payload):
        inputs = {tensor.name: tensor for tensor in payload.inputs}
        signatures = {
            frozenset(signature.structured_input_signature[1]): signature
            for signature in self.model.signatures.values()
        }
        signature = signatures.get(frozenset(inputs))
        if signature is None:
            raise InferenceError(
                f"Expected the inputs {[sorted(names) for names in signatures]} of a "
                f"signature. Received: {sorted(inputs)}"
            )
        specs = signature.structured_input_signature[1]
        try:
            tensors = {name: self._tensor(inputs[name], specs[name]) for name in specs}
            outputs = await asyncio.to_thread(signature, **tensors)
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            raise InferenceError(str(error)) from error
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            outputs=[_output(name, outputs[name].numpy()) for name in sorted(outputs)],
        )

    def _tensor(self, tensor, spec):
        if spec.dtype == tf.string:
            values = self.decode(tensor, default_codec=Base64Codec)
            return tf.constant(values, tf.string, shape=[len(values)])
        return tf.constant(self.decode(tensor, default_codec=NumpyCodec), spec.dtype)


def _output(name, array):
    if array.dtype != object:
        return NumpyCodec.encode_output(name, array)
    output = StringCodec.encode_output(name, [item.decode() for item in array.flat])
    output.shape = list(array.shape)
    return output
