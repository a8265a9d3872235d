"""Serves a SavedModel of `elu_zoo.export_saved_model` with KServe.

Takes and gives what TensorFlow Serving's REST interface does for `serve_bytes`.
"""

import argparse
import asyncio
import base64
import pathlib

import kserve
import tensorflow as tf
from kserve.errors import InvalidInput


class SavedModel(kserve.Model):
    def __init__(self, name, folder):
        super().__init__(name)
        versions = [path for path in folder.iterdir() if path.name.isdecimal()]
        newest = max(versions, key=lambda path: int(path.name))
        self.model = tf.saved_model.load(str(newest))
        self.ready = True

    async def predict(self, payload, headers=None, response_headers=None):
        try:
            # TensorFlow Serving lets the name of a single input out.
            items = [item.get("image_bytes", item) for item in payload["instances"]]
            images = [base64.b64decode(item["b64"]) for item in items]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InvalidInput(
                'Expected {"instances": [{"b64": BASE64}, ...]}. Received: another '
                f"request ({error!r})"
            ) from error
        outputs = await asyncio.to_thread(
            self.model.signatures["serve_bytes"],
            image_bytes=tf.constant(images, tf.string, shape=[len(images)]),
        )
        outputs = {name: value.numpy() for name, value in outputs.items()}
        rows = zip(
            outputs["classes"], outputs["probabilities"], outputs["valid"], strict=True
        )
        return {
            "predictions": [
                {
                    "classes": [name.decode() for name in names],
                    "probabilities": probabilities.tolist(),
                    "valid": bool(valid),
                }
                for names, probabilities, valid in rows
            ]
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--model_dir", required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    model = SavedModel(arguments.model_name, arguments.model_dir)
    kserve.ModelServer().start([model])
