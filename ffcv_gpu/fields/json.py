"""JSON documents of any length."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import DecodeError, PipelineError, SampleError
from ffcv_gpu.fields.base import ByteString, Field, Malloc, at_old_path
from ffcv_gpu.format import TypeId

__all__ = ["JSONField"]


class JSONField(ByteString):
    """A JSON document, stored as ASCII text and one zero byte.

    A batch is the text as uint8 (N, longest of the file); `unpack` turns a batch into objects. numpy and
    torch scalars are stored as numbers; as always in JSON, tuples become lists, and keys become strings.
    """

    type_id = TypeId.JSON

    @staticmethod
    def from_binary(binary: Any) -> Field:
        """Return a `JSONField`; it has no settings."""
        return JSONField()

    def encode(self, destination: npt.NDArray[Any], value: Any, malloc: Malloc) -> None:
        """Store one document; `SampleError` if JSON cannot represent it."""
        try:
            text = json.dumps(value, default=_scalar)
        except (TypeError, ValueError, RecursionError) as error:
            raise SampleError(
                f"JSON cannot hold this {type(value).__name__}: {error}; give dicts, lists, strings, numbers"
            ) from error
        self.store(destination, np.frombuffer(text.encode("ascii") + b"\0", np.uint8), malloc)

    def restore(self, record: Any, payload: npt.NDArray[np.uint8] | None) -> Any:
        """Return the document; `DecodeError` if there is none."""
        assert payload is not None
        return _parse(payload, 0)

    @staticmethod
    def unpack(batch: Any) -> Any:
        """Return the documents of a decoded batch.

        Parameters
        ----------
        batch : uint8, shape (N, longest) or (longest,)
            Array or tensor, as the loader returns it.

        Returns
        -------
        list of N objects, or one object for a 1-D input

        Raises
        ------
        DecodeError
            If a row does not hold a document.
        PipelineError
            If `batch` is no such array or tensor.
        """
        rows = np.asarray(batch.cpu() if hasattr(batch, "cpu") else batch)
        if isinstance(batch, tuple | list) or rows.ndim not in (1, 2):
            raise PipelineError(
                "JSONField.unpack takes this field's element of a batch, uint8 (N, longest), not"
                f" {type(batch).__name__} {rows.shape}"
            )
        if rows.ndim == 1:
            return _parse(rows, 0)
        return [_parse(row, k) for k, row in enumerate(rows)]


def _parse(row: npt.NDArray[np.uint8], number: int) -> Any:
    text, end, _ = row.tobytes().partition(b"\0")
    try:
        if not end:
            raise ValueError("it has no terminating zero byte")
        return json.loads(text)
    except ValueError as error:
        raise DecodeError(f"row {number} of the batch is not a document of a JSONField: {error}") from error


def _scalar(value: Any) -> Any:
    """Return the Python number in a numpy scalar or 0-d tensor, which `json` does not know."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__name__} is not JSON")


__getattr__ = at_old_path(__name__, "BytesDecoder")
