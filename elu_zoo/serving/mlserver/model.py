"""Serves a SavedModel of `elu_zoo.export_saved_model` with MLServer."""

import asyncio
import pathlib

import tensorflow as tf
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.errors import InferenceError
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class SavedModel(MLModel):
    async def load(self):
        folder = pathlib.Path(await get_model_uri(self.settings))
        versions = [path for path in folder.iterdir() if path.name.isdecimal()]
        newest = max(versions, key=lambda path: int(path.name))
        self._loaded = tf.saved_model.load(str(newest))
        self._serve = self._loaded.signatures["serve_bytes"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        inputs = {tensor.name: tensor for tensor in payload.inputs}
        if list(inputs) != ["image_bytes"]:
            raise InferenceError(
                f"Expected one input, image_bytes. Received: {list(inputs)}"
            )
        contents = Base64Codec.decode_input(inputs["image_bytes"])
        answer = await asyncio.to_thread(
            self._serve,
            image_bytes=tf.constant(contents, tf.string, shape=[len(contents)]),
        )
        names = answer["classes"].numpy()
        classes = StringCodec.encode_output(
            "classes", [name.decode() for name in names.ravel()]
        )
        classes.shape = list(names.shape)
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                classes,
                NumpyCodec.encode_output(
                    "probabilities", answer["probabilities"].numpy()
                ),
                NumpyCodec.encode_output("valid", answer["valid"].numpy()),
            ],
        )
