"""What a file records about its samples besides their values: source ids, class names, skipped samples.

Source ids are a chunk of the section (``SRCS``, see `section`); the others are in its ``INFO``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import FormatError

__all__ = ["Skipped", "SourceIds", "check_info", "pack_source_ids", "unpack_source_ids"]

_ROWS: Final = struct.Struct("<Q")


class Skipped(NamedTuple):
    """A sample that the writer left out.

    Attributes
    ----------
    position : int
        Its position among the samples to be written, from 0.
    key : object
        Its index in the dataset (``dataset[key]``); its repr if it is neither an int nor a str.
    reason : str
        Why it could not be stored.
    """

    position: int
    key: Any
    reason: str


class SourceIds(Sequence[str]):
    """One str per sample: where it came from. A view of the file; each id is decoded on access."""

    def __init__(self, offsets: npt.NDArray[np.uint64], text: npt.NDArray[np.uint8]) -> None:
        self._offsets, self._text = offsets, text

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        start, stop = int(self._offsets[place]), int(self._offsets[place + 1])
        try:
            return self._text[start:stop].tobytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise FormatError(f"the source id of sample {place} is not UTF-8: {error}") from None

    def __iter__(self) -> Iterator[str]:
        return (self[k] for k in range(len(self)))


def pack_source_ids(texts: Iterable[str]) -> bytes:
    """Return the payload of a ``SRCS`` chunk: u64 rows | u64 x (rows + 1) offsets | UTF-8 text."""
    coded = [text.encode("utf-8") for text in texts]
    offsets = np.zeros(len(coded) + 1, "<u8")
    np.cumsum([len(text) for text in coded], out=offsets[1:])
    return _ROWS.pack(len(coded)) + offsets.tobytes() + b"".join(coded)


def unpack_source_ids(payload: npt.NDArray[np.uint8], num_samples: int) -> SourceIds:
    """The inverse of `pack_source_ids`, without a copy; `ValueError` unless it holds `num_samples` ids."""
    head = _ROWS.size + 8 * (num_samples + 1)
    rows = _ROWS.unpack(payload[: _ROWS.size].tobytes())[0] if len(payload) >= _ROWS.size else -1
    if rows != num_samples or len(payload) < head:
        raise ValueError(f"{max(rows, 0)} source ids for {num_samples} samples")
    offsets, text = payload[_ROWS.size : head].view("<u8"), payload[head:]
    if offsets[0] != 0 or offsets[-1] != len(text) or np.any(offsets[1:] < offsets[:-1]):
        raise ValueError("the offsets of its source ids are out of order")
    return SourceIds(offsets, text)


def check_info(info: Mapping[str, Any]) -> None:
    """Raise `ValueError` if a member of ``INFO`` is not as README.md describes it."""
    for name, kind in (("writer", str), ("fields", dict), ("class_names", list), ("skipped", list)):
        if not isinstance(info.get(name, kind()), kind):
            raise ValueError(f"{name!r} in its INFO must be a {kind.__name__}")
    if not all(isinstance(name, str) for name in info.get("class_names", [])):
        raise ValueError("its class names are not a list of str")
    if not all(isinstance(row, list) and len(row) == 3 for row in info.get("skipped", [])):
        raise ValueError("its list of skipped samples is malformed")
    parts = info.get("parts", [])
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ValueError("its list of parts is malformed")
    if not all(isinstance(part.get("samples"), int) for part in parts):
        raise ValueError("its list of parts is malformed")
    if "shard" in info and not ("images" in info and _is_shard(info["shard"])):
        raise ValueError("its note of a shard is malformed")
    if not all(_are_counts(member["images"]) for member in (info, *parts) if "images" in member):
        raise ValueError("its counts of images are malformed")


def _is_shard(note: Any) -> bool:
    if not isinstance(note, dict) or not isinstance(note.get("conversion"), dict):
        return False
    index, count = note.get("index"), note.get("count")
    return isinstance(index, int) and isinstance(count, int) and 0 <= index < count


def _are_counts(images: Any) -> bool:
    if not isinstance(images, dict) or not {"modes", "transcoded", "rotated", "turned"} <= set(images):
        return False
    if not all(isinstance(images[name], dict) for name in ("modes", "transcoded")):
        return False
    numbers = [*images["modes"].values(), *images["transcoded"].values(), images["rotated"], images["turned"]]
    return all(isinstance(number, int) for number in numbers)
