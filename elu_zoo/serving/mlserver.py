"""Serves a SavedModel of `elu_zoo.export_saved_model` with MLServer.

    python -m elu_zoo.serving.mlserver FOLDER

This command starts the server with the `settings.json` and `model-settings.json` of a
folder; those next to this file are an example. `mlserver start FOLDER` does the same,
except that it answers requests that violate the protocol's schema with status 422 and a
copy of the request.
"""

import argparse
import asyncio

import numpy as np
from fastapi import Request, status
from fastapi.exceptions import RequestValidationError
from mlserver import MLModel, MLServer
from mlserver.cli.serve import load_settings
from mlserver.errors import InferenceError, MLServerError
from mlserver.rest.responses import Response
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    RequestInput,
    ResponseOutput,
)
from mlserver.utils import get_model_uri

from elu_zoo.serving.saved_model import (
    RequestError,
    ServedModel,
    decode_base64,
    first_fault,
)

DATATYPES = {"classes": "BYTES", "probabilities": "FP32", "valid": "BOOL"}
"""The protocol's datatypes of the outputs of `serve_bytes`."""


class SavedModel(MLModel):
    """The signature `serve_bytes` as a model of the Open Inference Protocol."""

    async def load(self) -> bool:
        """Loads the newest version in the folder that the setting `uri` names.

        Returns:
            `True`: the model is ready.

        Raises:
            FileNotFoundError: If the folder has no version.
        """
        self._served = ServedModel(await get_model_uri(self.settings))
        self.inputs = [MetadataTensor(name="image_bytes", datatype="BYTES", shape=[-1])]
        shapes = self._served.output_shapes()
        self.outputs = [
            MetadataTensor(name=name, datatype=datatype, shape=shapes[name])
            for name, datatype in DATATYPES.items()
        ]
        return True

    async def unload(self) -> bool:
        """Stops looking for new versions.

        Returns:
            `True`: the model is unloaded.
        """
        self._served.close()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Classifies the images of a request.

        Args:
            payload: Request with one input, `image_bytes`, of datatype BYTES and shape
                `[n]` or `[n, 1]`: base64 strings, or over gRPC the encoded images.

        Returns:
            Answer with the outputs of `DATATYPES`.

        Raises:
            InferenceError: If the request is malformed: status 400 and a one-line
                error.
        """
        try:
            _check_id(payload.id)
            contents = _images(payload.inputs)
            answer = await asyncio.to_thread(self._served.classify, contents)
        except RequestError as error:
            raise InferenceError(str(error)) from None
        return InferenceResponse(
            model_name=self.name,
            outputs=[_output(name, answer[name]) for name in DATATYPES],
        )


def _check_id(text: str | None) -> None:
    # MLServer copies the id into a header of its answer.
    if text and not (text.isascii() and text.isprintable() and len(text) <= 200):
        raise RequestError(
            f"Expected an id of at most 200 printable ASCII characters. Received: "
            f"{ascii(text[:40])}"
        )


def _images(tensors: list[RequestInput]) -> list[bytes]:
    """The encoded images of a request."""
    if [tensor.name for tensor in tensors] != ["image_bytes"]:
        raise RequestError(
            f"Expected one input, image_bytes. Received: {len(tensors)} inputs, "
            f"{[tensor.name[:40] for tensor in tensors[:5]]}"
        )
    (tensor,) = tensors
    if tensor.datatype != "BYTES":
        raise RequestError(
            "Expected image_bytes of datatype BYTES. Received: "
            f"datatype={tensor.datatype}"
        )
    items = tensor.data.root
    if not isinstance(items, list):
        items = [items]
    if tensor.shape not in ([len(items)], [len(items), 1]):
        raise RequestError(
            f"Expected image_bytes of shape [{len(items)}], the length of its data. "
            f"Received: shape={str(tensor.shape)[:80]}"
        )
    return [_content(item) for item in items]


def _content(item: object) -> bytes:
    # Over gRPC, images need not be base64; none consists of its alphabet alone.
    if isinstance(item, bytes):
        try:
            return decode_base64(item.decode("ascii"))
        except (UnicodeDecodeError, RequestError):
            return item
    return decode_base64(item)


def _output(name: str, array: np.ndarray) -> ResponseOutput:
    return ResponseOutput(
        name=name,
        datatype=DATATYPES[name],
        shape=list(array.shape),
        data=array.ravel().tolist(),
    )


async def _serve(folder: str) -> None:
    settings, models = await load_settings(folder)
    server = MLServer(settings)
    # MLServer has no public access to its application.
    app = server._rest_server._app
    app.add_exception_handler(RequestValidationError, _say_in_one_line)
    app.add_exception_handler(Exception, _say_nothing)
    # A stream starts with status 200 before the model sees the request.
    app.router.routes[:] = [
        route for route in app.routes if not route.path.endswith("_stream")
    ]
    # Clients must not take the model away, over HTTP or gRPC.
    handlers = server._model_repository_handlers
    handlers.load = handlers.unload = _refuse
    await server.start(models)


async def _refuse(name: str) -> bool:
    raise MLServerError(
        "Expected an inference request. Received: a request to load or unload a model",
        status.HTTP_403_FORBIDDEN,
    )


async def _say_in_one_line(request: Request, error: RequestValidationError) -> Response:
    text = f"Expected an inference request. Received: {first_fault(error)}"
    return Response(status_code=400, content={"error": text})


async def _say_nothing(request: Request, error: Exception) -> Response:
    # The log has the traceback.
    return Response(status_code=500, content={"error": "Internal server error"})


def main() -> None:
    """Runs the server until SIGTERM; requests in flight are answered."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "folder", help="folder with settings.json and model-settings.json"
    )
    asyncio.run(_serve(parser.parse_args().folder))


if __name__ == "__main__":
    main()
