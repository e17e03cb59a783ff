"""Splits a conversion between machines: what a shard holds, its name, and whether shards form one file.

Each machine writes a shard: an ordinary file whose section records its number and its conversion. Nothing
coordinates the machines: from the files alone, `in_order` tells whether all shards are there.
"""

from __future__ import annotations

import json
import operator
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeAlias

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.format import crc32c

__all__ = ["Shard", "ShardWish", "differences", "in_order"]

#: ``shard=(index, count)``, index from 0
ShardWish = tuple[int, int] | None
Note: TypeAlias = Mapping[str, Any]
#: how many missing shards a message lists
_SHOWN: Final = 10
#: messages use these words where the argument's name would not be clear
_WORDS: Final[Mapping[str, str]] = {
    "count": "number of shards",
    "indices": "order of the samples",
    "source_ids": "listing of the source",
    "dataset": "content of the source",
}


@dataclass(frozen=True)
class Shard:
    """Shard `index` (from 0) of `count`; `PipelineError` if there is no such shard."""

    index: int
    count: int

    @staticmethod
    def wished(wish: ShardWish) -> Shard | None:
        """Return the shard that ``shard=`` asks for."""
        if wish is None:
            return None
        try:
            index, count = map(operator.index, wish)
        except (TypeError, ValueError):
            raise PipelineError(f"shard={wish!r}: give two integers, (index, count)") from None
        return Shard(index, count)

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise PipelineError(f"there is no shard {self.index} of {self.count}: shards are numbered from 0")

    def __str__(self) -> str:
        return f"shard {self.index} of {self.count}"

    def span(self, total: int, things: str) -> range:
        """Return which of `total` things this shard has: consecutive ones; shard sizes differ by at most one.

        Raises
        ------
        PipelineError
            If there are more shards than things.
        """
        if self.count > total:
            raise PipelineError(f"{total} {things} are too few for {self.count} shards: each needs one")
        return range(self.index * total // self.count, (self.index + 1) * total // self.count)

    def path(self, fname: str) -> str:
        """Return the path of the shard if that of the whole file is `fname`."""
        stem, ending = os.path.splitext(fname)
        return f"{stem}-{self.index:05d}-of-{self.count:05d}{ending}"

    def note(self, conversion: Mapping[str, Any], class_names: Sequence[str] | None) -> dict[str, Any]:
        """Return what the file records: shard and conversion; of fields and class names only the CRC32C."""
        sums = {"fields": conversion["fields"], "class_names": class_names}
        brief = {name: crc32c(json.dumps(value, sort_keys=True).encode()) for name, value in sums.items()}
        return {"index": self.index, "count": self.count, "conversion": {**conversion, **brief}}


def differences(one: Note, other: Note) -> str:
    """Return in words what differs between two notes, apart from the shard's number; "" if nothing does."""
    first, second = ({"count": note["count"], **note["conversion"]} for note in (one, other))
    differ = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    return ", ".join(sorted(_WORDS.get(name, name) for name in differ))


def in_order(files: Sequence[tuple[str, Note | None]]) -> list[str] | None:
    """Return the files, all shards of a conversion, in shard order; None if no file is a shard.

    Parameters
    ----------
    files : sequence of (str, mapping or None)
        Each file's path, and its note if it is a shard.

    Raises
    ------
    PipelineError
        If a shard is missing or given twice, or a file is from another conversion or not a shard.
    """
    shards = [(path, note) for path, note in files if note is not None]
    if not shards:
        return None
    plain = [path for path, note in files if note is None]
    if plain:
        path, note = shards[0]
        raise PipelineError(
            f"{path} is {_shard_of(note)}, but {plain[0]} is not a shard: merge the shards separately first"
        )
    _check_one_conversion(shards)
    by_index: dict[int, str] = {}
    for path, note in shards:
        if note["index"] in by_index:
            raise PipelineError(f"{by_index[note['index']]} and {path} are both {_shard_of(note)}: give one")
        by_index[note["index"]] = path
    _check_complete(by_index, shards[0][1]["count"])
    return [path for _, path in sorted(by_index.items())]


def _shard_of(note: Note) -> Shard:
    return Shard(note["index"], note["count"])


def _check_one_conversion(shards: Sequence[tuple[str, Note]]) -> None:
    """Raise for a file that is not from the conversion of most files."""
    kinds = [json.dumps([note["count"], note["conversion"]], sort_keys=True) for _, note in shards]
    usual = Counter(kinds).most_common(1)[0][0]
    first, noted = shards[kinds.index(usual)]
    for kind, (path, note) in zip(kinds, shards, strict=True):
        if kind != usual:
            raise PipelineError(
                f"{path} and {first} are not from one conversion (different {differences(note, noted)}):"
                " write the first again with the arguments of the second"
            )


def _check_complete(found: Collection[int], count: int) -> None:
    missing = count - len(found)
    if not missing:
        return
    listed = [str(index) for index in islice((k for k in range(count) if k not in found), _SHOWN)]
    if missing == 1:
        raise PipelineError(f"shard {listed[0]} of {count} is missing: write it, or give it too")
    last = listed.pop() if missing <= _SHOWN else f"{missing - _SHOWN} more"
    raise PipelineError(
        f"shards {', '.join(listed)} and {last} of {count} are missing: write them, or give them too"
    )
