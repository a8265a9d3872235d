"""Serves a SavedModel of `elu_zoo.export_saved_model` with MLServer."""

import pathlib

import tensorflow as tf
from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse
from mlserver.utils import get_model_uri


class SavedModel(MLModel):
    async def load(self):
        folder = pathlib.Path(await get_model_uri(self.settings))
        newest = max(folder.glob("[0-9]*"), key=lambda path: int(path.name))
        self._loaded = tf.saved_model.load(str(newest))
        self._serve = self._loaded.signatures["serve_bytes"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (images,) = payload.inputs
        contents = Base64Codec.decode_input(images)
        answer = self._serve(
            image_bytes=tf.constant(contents, tf.string, shape=[len(contents)])
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
