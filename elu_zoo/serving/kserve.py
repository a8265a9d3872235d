"""Serves a SavedModel of `elu_zoo.export_saved_model` with KServe.

    python -m elu_zoo.serving.kserve --model_dir served --model_name elu

Requests and answers are those of TensorFlow Serving's REST API for `serve_bytes`.
"""

import argparse
import asyncio
import os
import pathlib
from typing import Any

import kserve
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from kserve.errors import InvalidInput

from elu_zoo.serving.saved_model import (
    RequestError,
    ServedModel,
    decode_base64,
    first_fault,
)

FIELDS = "classes", "probabilities", "valid"
"""Outputs of `serve_bytes`, in the order of the answer."""


class SavedModel(kserve.Model):
    """The signature `serve_bytes` as a model of KServe's V1 protocol.

    Args:
        name: The model's name in the URL.
        folder: Folder of the model's versions.

    Raises:
        FileNotFoundError: If the folder has no version.
    """

    def __init__(self, name: str, folder: str | os.PathLike[str]) -> None:
        super().__init__(name)
        self._served = ServedModel(folder)
        self.ready = True

    async def predict(
        self, payload: object, headers: object = None, response_headers: object = None
    ) -> dict[str, list[dict[str, Any]]]:
        """Classifies the images of a request.

        Args:
            payload: The request's JSON, `{"instances": [{"b64": BASE64}, ...]}`.
            headers: Ignored.
            response_headers: Ignored.

        Returns:
            The answer's JSON: `predictions`, a dict of `FIELDS` for each image.

        Raises:
            InvalidInput: If the request is malformed: status 400 and a one-line error.
        """
        try:
            contents = _images(payload)
            answer = await asyncio.to_thread(self._served.classify, contents)
        except RequestError as error:
            raise InvalidInput(str(error)) from None
        lists = [answer[name].tolist() for name in FIELDS]
        rows = zip(*lists, strict=True)
        return {"predictions": [dict(zip(FIELDS, row, strict=True)) for row in rows]}


def _images(payload: object) -> list[bytes]:
    """The encoded images of a request."""
    if not isinstance(payload, dict) or not isinstance(payload.get("instances"), list):
        raise RequestError(
            'Expected {"instances": [{"b64": BASE64}, ...]}. Received: a request '
            "without a list of instances"
        )
    signature = payload.get("signature_name", "serve_bytes")
    if signature != "serve_bytes":
        raise RequestError(
            "Expected signature_name to be 'serve_bytes'. Received: "
            f"signature_name={ascii(signature)[:40]}"
        )
    return [_content(instance) for instance in payload["instances"]]


def _content(instance: object) -> bytes:
    # TensorFlow Serving's clients may omit the name of a single input.
    item = instance
    if isinstance(item, dict):
        item = item.get("image_bytes", item)
    if not isinstance(item, dict) or "b64" not in item:
        raise RequestError(
            'Expected each instance as {"b64": BASE64}. Received: '
            f"{type(instance).__name__}"
        )
    return decode_base64(item["b64"])


async def _say_in_one_line(_: Request, error: RequestValidationError) -> JSONResponse:
    text = f"Expected an inference request. Received: {first_fault(error)}"
    return JSONResponse(status_code=400, content={"error": text})


def main() -> None:
    """Runs the server; `--help` lists KServe's own options."""
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.add_argument("--model_dir", required=True, type=pathlib.Path)
    arguments = parser.parse_args()
    model = SavedModel(arguments.model_name, arguments.model_dir)
    app = kserve.model_server.app
    app.add_exception_handler(RequestValidationError, _say_in_one_line)
    kserve.ModelServer().start([model])


if __name__ == "__main__":
    main()
