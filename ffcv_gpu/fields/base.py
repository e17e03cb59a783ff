"""What every field offers: FFCV's protocol, and what the writer and the loader ask beyond it."""

from __future__ import annotations

import importlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import FormatError, PipelineError, SampleError
from ffcv_gpu.format import ARGUMENT_BYTES, RECORD_DTYPES, TypeId

__all__ = [
    "ARG_TYPE",
    "ByteString",
    "EncodeNote",
    "Field",
    "Malloc",
    "OwnField",
    "at_old_path",
    "own_description",
    "plain_number",
    "read_file",
]

ARG_TYPE = np.dtype([("", "<u1", ARGUMENT_BYTES)])
#: begins the argument bytes of an `OwnField`; a JSON object follows
OWN_MAGIC = b"ffcv_gpu\0"

#: ``malloc(n) -> (pointer, uint8 (n,) to fill)``. The pointer is to be stored in the record as it is: the
#: writer puts the place in the file there once it is known.
Malloc = Callable[[int], tuple[int, npt.NDArray[np.uint8]]]


@dataclass(frozen=True, slots=True)
class EncodeNote:
    """What the writer wants to know of how one value was stored.

    Attributes
    ----------
    mode : str
        How, in the words of the writer's report ("raw", "jpeg pass-through", ...).
    facts : tuple of int, optional
        One row of `ffcv_gpu.format.JPEG_FACTS`.
    reason : str, optional
        Why bytes that could have been stored as they were had to be changed.
    rotated : bool
        The source carries an EXIF rotation.
    turned : bool
        The pixels were turned by it.
    """

    mode: str
    facts: tuple[int, int, int, int, int] | None = None
    reason: str | None = None
    rotated: bool = False
    turned: bool = False


class Field(ABC):
    """One column of a dataset: how a value becomes a record of fixed size, and a payload if need be.

    A class of your own needs FFCV's five members and nothing else: `metadata_type`, `from_binary`,
    `to_binary`, `encode`, `get_decoder_class`.

    Attributes
    ----------
    type_id : int
        What the file calls this class. A subclass is `TypeId.CUSTOM` unless it says otherwise, as in FFCV.
    pointers : tuple of str
        The members of the record that hold a place in the file; ``""`` is the record itself. A custom
        class may leave it empty: the writer then finds them by the values that `malloc` gave out.
    default_decoder : str
        Name of the class in `ffcv_gpu.fields.decoders` that reads the field unless a pipeline says more.
    """

    type_id: ClassVar[int] = TypeId.CUSTOM
    pointers: ClassVar[tuple[str, ...]] = ()
    default_decoder: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "type_id" not in cls.__dict__:
            cls.type_id = TypeId.CUSTOM

    @property
    @abstractmethod
    def metadata_type(self) -> np.dtype[Any]:
        """The dtype of one record."""

    @staticmethod
    @abstractmethod
    def from_binary(binary: Any) -> Field:
        """Return the field that `to_binary` described; `binary` is uint8 (1024,)."""

    @abstractmethod
    def to_binary(self) -> Any:
        """Return one `ARG_TYPE` record: the 1024 bytes from which `from_binary` makes this field again."""

    @abstractmethod
    def encode(self, destination: npt.NDArray[Any], value: Any, malloc: Malloc) -> None:
        """Store one value.

        Parameters
        ----------
        destination : ndarray of `metadata_type`, shape (1,)
            The sample's record, to be filled.
        value
            What the dataset gave.
        malloc : callable
            Gives memory for payload bytes; see `Malloc`. All payloads of a sample share one page.

        Raises
        ------
        SampleError
            If the value cannot be stored; the writer adds which sample and field.
        """

    def get_decoder_class(self) -> Any:
        """Return the class of the decoder that reads this field unless a pipeline says otherwise."""
        if not self.default_decoder:
            raise TypeError(f"{type(self).__name__} must define get_decoder_class()")
        return getattr(importlib.import_module("ffcv_gpu.fields.decoders"), self.default_decoder)

    @property
    def record_dtype(self) -> np.dtype[Any]:
        """`metadata_type` as a dtype object."""
        return np.dtype(self.metadata_type)

    def encode_sample(
        self, index: int, destination: npt.NDArray[Any], value: Any, malloc: Malloc
    ) -> EncodeNote | None:
        """`encode` for sample `index` of the file; what the writer calls."""
        self.encode(destination, value, malloc)
        return None

    def expect(self, samples: int) -> None:  # noqa: B027 - most fields have nothing to load
        """Load what pays off for this many samples in a process; must not change what is stored.

        The writer calls it before it forks other processes, which then have it too.
        """

    def write_settings(self) -> Mapping[str, Any]:
        """Return the constructor's arguments, as JSON can hold them; noted in the file for `info`."""
        return {}

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in self.write_settings().items())
        return f"{type(self).__name__}({settings})"


class ByteString(Field):
    """Base of fields whose payload is a byte string of any length."""

    pointers = ("ptr",)
    default_decoder = "BytesDecoder"

    @property
    def metadata_type(self) -> np.dtype[Any]:
        """Members ``ptr`` and ``size``, uint64."""
        return RECORD_DTYPES[TypeId.BYTES]

    def to_binary(self) -> Any:
        """Return 1024 zeros."""
        return np.zeros(1, dtype=ARG_TYPE)[0]

    def store(self, destination: npt.NDArray[Any], content: npt.NDArray[np.uint8], malloc: Malloc) -> None:
        """Store uint8 (n,)."""
        destination["ptr"], storage = malloc(content.size)
        destination["size"] = content.size
        storage[:] = content


class OwnField(Field):
    """Base of our fields for which FFCV has no type.

    The file has type id 255 for them, and their class and settings in the argument bytes, so that our
    loader makes them without ``custom_fields``. (FFCV refuses the whole file without a class of theirs.)
    """

    def to_binary(self) -> Any:
        """Return the class's name and `write_settings`, by which `from_binary` makes the field again."""
        text = json.dumps({"class": type(self).__name__, "settings": dict(self.write_settings())})
        raw = OWN_MAGIC + text.encode("ascii")
        if len(raw) > ARGUMENT_BYTES:
            raise PipelineError(f"{self!r}: its settings take more than {ARGUMENT_BYTES} bytes")
        return np.frombuffer(raw.ljust(ARGUMENT_BYTES, b"\0"), ARG_TYPE)[0]

    @classmethod
    def described(cls, binary: Any) -> Any:
        """Return the field that the argument bytes describe; `FormatError` if they describe none of `cls`."""
        name, settings = own_description(np.asarray(binary).tobytes())
        try:
            return cls(**settings)
        except (TypeError, ValueError, OverflowError, SyntaxError) as error:  # the last is numpy's, of dtypes
            raise FormatError(f"a field is described as {name} with settings {settings}: {error}") from error


def own_description(arguments: bytes) -> tuple[str, dict[str, Any]]:
    """Return class and settings of an `OwnField` by its 1024 argument bytes; ("", {}) for other fields."""
    if not arguments.startswith(OWN_MAGIC):
        return "", {}
    text = arguments[len(OWN_MAGIC) :].rstrip(b"\0")
    try:
        found = json.loads(text)
        return str(found["class"]), dict(found["settings"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"a field of ours is described as {text[:80]!r}: {error}; damaged?") from error


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Return the bytes of a file that a sample names; `SampleError` if it cannot be read."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall()
    except OSError as error:
        raise SampleError(f"cannot read {os.fspath(path)!r}: {error.strerror}; mend the path") from error


def plain_number(value: Any) -> Any:
    """Return the Python number in a numpy scalar, a 0-d array or tensor, or an array of one element."""
    shape = getattr(value, "shape", None)
    if shape is not None and hasattr(value, "item") and all(side == 1 for side in shape):
        return value.item()
    return value


def at_old_path(module: str, *names: str) -> Callable[[str], Any]:
    """Return a module's ``__getattr__`` that gives the decoders `names`, which FFCV has in that module."""

    def decoder(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        # On first use: siblings do not import each other.
        return getattr(importlib.import_module("ffcv_gpu.fields.decoders"), name)

    return decoder
