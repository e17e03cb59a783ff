"""The fields of a file as objects: which class reads which, and how large their records are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from ffcv_gpu.errors import FfcvGpuError, FormatError, PipelineError, ReadError, too_many_files
from ffcv_gpu.fields import (
    BytesField,
    FloatField,
    IntField,
    JSONField,
    NDArrayField,
    RGBImageField,
    TorchTensorField,
    own_class,
)
from ffcv_gpu.fields.base import OwnField
from ffcv_gpu.format import (
    RECORD_DTYPES,
    Beton,
    FieldDescriptor,
    FieldDescType,
    HeaderType,
    TypeId,
    open_beton,
    read_descriptors,
)

__all__ = ["BUILTIN_FIELDS", "StoredFields", "readable", "stored_fields"]

BUILTIN_FIELDS: Mapping[int, Any] = {
    TypeId.FLOAT: FloatField,
    TypeId.INT: IntField,
    TypeId.RGB_IMAGE: RGBImageField,
    TypeId.BYTES: BytesField,
    TypeId.NDARRAY: NDArrayField,
    TypeId.JSON: JSONField,
    TypeId.TENSOR: TorchTensorField,
}


class StoredFields(NamedTuple):
    """A file's fields by name, in file order; and of those that FFCV has no type for, the classes."""

    path: str
    fields: Mapping[str, Any]
    custom: Mapping[str, Any]

    def open(self, *, check_sums: bool = True, name: str | None = None) -> Beton:
        """Return `open_beton` of the file; raises its `FormatError`, or `ReadError`.

        Records of another size than the file's look like damage; the error then names the classes given.
        """
        records = {field: np.dtype(self.fields[field].metadata_type) for field in self.custom}
        with readable(self.path):
            try:
                return open_beton(self.path, records, check_sums=check_sums, name=name)
            except FormatError as error:
                given = " or ".join(repr(name) for name, kind in self.custom.items() if not _is_ours(kind))
                if not given:
                    raise
                raise FormatError(
                    f"{error}; or field {given} was written by another class than the one given"
                ) from error


def stored_fields(path: str | os.PathLike[str], custom: Mapping[str, Any]) -> StoredFields:
    """Return a Field object for each field of the file.

    Parameters
    ----------
    path : str or os.PathLike
        A local file.
    custom : mapping of str to Field class
        By field name, for fields of type 255; takes precedence over what the file says.

    Raises
    ------
    FormatError
        If the file's description of its fields is damaged.
    ReadError
        If it cannot be opened.
    PipelineError
        If a class has no field, or cannot read it, or a field has no class; then the error's `field` is its
        name.
    """
    path = os.fspath(path)
    descriptors = {descriptor.name: descriptor for descriptor in _described(path)}
    unknown = [name for name in custom if name not in descriptors]
    if unknown:
        known = ", ".join(map(repr, descriptors))
        raise PipelineError(f"custom_fields: {path} has no field {unknown[0]!r}; its fields are {known}")
    fields, classes = {}, {}
    for number, (name, descriptor) in enumerate(descriptors.items()):
        try:
            kind = _class_of(path, descriptor, custom)
            fields[name] = kind.from_binary(np.frombuffer(descriptor.arguments, np.uint8))
        except FormatError as error:
            at = HeaderType.itemsize + number * FieldDescType.itemsize
            raise FormatError(f"{path}: field {name!r}, described at byte {at}: {error}") from error
        if name in custom:
            _check_record(path, descriptor, fields[name])
        if name in custom or descriptor.type_id == TypeId.CUSTOM:
            classes[name] = kind
    return StoredFields(path, fields, classes)


def _class_of(path: str, descriptor: FieldDescriptor, custom: Mapping[str, Any]) -> Any:
    """Return the class that reads a field. Of what `stored_fields` raises, `FormatError` has no path yet."""
    name = descriptor.name
    if name in custom:
        kind = custom[name]
        if not hasattr(kind, "from_binary"):
            raise PipelineError(f"custom_fields: {kind!r}, given for {name!r}, is not a Field class")
        return kind
    kind = BUILTIN_FIELDS.get(descriptor.type_id)
    if descriptor.type_id == TypeId.CUSTOM:
        kind = own_class(descriptor.arguments)
    if kind is None:
        error = PipelineError(
            f"{path}: field {name!r} has a custom type (id {descriptor.type_id}); pass its class: "
            f"custom_fields={{{name!r}: ...}}"
        )
        error.field = name
        raise error
    return kind


def _is_ours(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, OwnField)


def _check_record(path: str, descriptor: FieldDescriptor, field: Any) -> None:
    """Raise `PipelineError` if a built-in field's records are not of the size that a given class reads.

    Else every column behind them would be read at the wrong place.
    """
    if descriptor.type_id not in RECORD_DTYPES:
        return
    mine, its = np.dtype(field.metadata_type).itemsize, RECORD_DTYPES[descriptor.type_id].itemsize
    if mine != its:
        kind = BUILTIN_FIELDS[descriptor.type_id].__name__
        raise PipelineError(
            f"custom_fields: {path}: field {descriptor.name!r} is a {kind}, with records of {its} bytes;"
            f" {type(field).__name__} reads {mine}: leave it out"
        )


def _described(path: str) -> tuple[FieldDescriptor, ...]:
    with readable(path):
        try:
            return read_descriptors(path)
        except FormatError:
            open_beton(path)  # looks at the header first, so it can say that this is not a .beton file
            raise


@contextmanager
def readable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise `ReadError` in place of the system's error when a file is opened."""
    try:
        yield
    except FfcvGpuError:
        raise
    except OSError as error:
        advice = too_many_files(error)
        raise ReadError(f"cannot read {os.fspath(path)}: {error.strerror}{advice}") from error
