"""WebDataset shards: tar files of samples, streamed by the `webdataset` library.

The writer opens each shard once, through `samples`, in the process that encodes it.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import lzma
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from ffcv_gpu.convert import required
from ffcv_gpu.errors import SampleError

__all__ = ["image_and_label", "samples", "shard_names"]

TAR_BLOCK = 512
#: field -> members that may hold it, in order of preference
MEMBERS = {
    "image": ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff"),
    "label": ("cls", "label"),
}
#: magic bytes of compressed tar files, and what unpacks them; truncated ones raise EOFError
PACKED: Mapping[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b": lambda stream: gzip.GzipFile(fileobj=stream),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}


def _library() -> ModuleType:
    why = "WebDataset shards need the webdataset library; pip install 'ffcv-gpu[webdataset]'"
    return required("webdataset", why)


def shard_names(shards: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return the shard names in order, with braces as in ``"train-{0000..0146}.tar"`` expanded."""
    _library()
    import braceexpand

    given = [shards] if isinstance(shards, (str, os.PathLike)) else list(shards)
    names: list[str] = []
    for shard in given:
        names += [*braceexpand.braceexpand(shard)] if isinstance(shard, str) else [os.fspath(shard)]
    return names


class _Tar:
    """A shard's unpacked bytes on their way to tarfile; remembers the last block read.

    tarfile does not notice a truncation between two members, in a header or in a member's padding, neither
    in a plain nor in a compressed stream.
    """

    def __init__(self, stream: Any) -> None:
        begin, self._name = _Begun(stream), repr(stream)
        unpack = next((unpack for magic, unpack in PACKED.items() if begin.head.startswith(magic)), None)
        self._file: Any = begin if unpack is None else unpack(begin)
        self._end, self._exhausted = b"", False

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        data: bytes = self._file.read(size)
        self._exhausted = not data
        self._end = (self._end + data)[-TAR_BLOCK:]
        return data

    def __repr__(self) -> str:
        return self._name  # webdataset puts it into its messages

    @property
    def cut(self) -> bool:
        """True if the file was read to its end and does not end with a block of zeros."""
        return self._exhausted and (len(self._end) < TAR_BLOCK or any(self._end))


class _Begun:
    """A stream with a peek at its first bytes, `head`."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.head: bytes = stream.read(TAR_BLOCK)
        self._rest: bytes = self.head

    def read(self, size: int) -> bytes:
        """Return the next bytes, at most `size`; none at the end."""
        if self._rest:
            data, self._rest = self._rest[:size], self._rest[size:]
            return data
        rest: bytes = self._stream.read(size)
        return rest


class _Seen:
    """Records the last sample that went from the tar file into the user's pipeline, and the open files."""

    def __init__(self) -> None:
        self.key = ""
        self.streams: list[Any] = []
        self._tars: list[_Tar] = []

    def note(self, sample: Any) -> Any:
        self.key = sample["__key__"]
        return sample

    def opened(self, sources: Iterable[Any]) -> Iterator[Any]:
        for source in sources:
            self.streams.append(source["stream"])
            self._tars.append(_Tar(source["stream"]))
            yield source | {"stream": self._tars[-1]}

    def check_end(self, shard: str) -> None:
        """Raise `SampleError` if a tar file lacks its end marker."""
        if any(tar.cut for tar in self._tars):
            raise SampleError(
                f"shard {shard!r}, after sample {self.key!r}: the tar file does not end with a block of"
                " zeros: it is truncated; fetch or write it again"
            )

    def close(self) -> None:
        # Closing a pipe early raises because of its command's exit status.
        for stream in self.streams:
            with contextlib.suppress(OSError):
                stream.close()


def samples(shard: str, pipeline: Callable[[Any], Iterable[Any]]) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) for each sample that `pipeline` yields for a shard, in its order.

    Parameters
    ----------
    shard : str
        A path, a URL or ``pipe:command``, as webdataset accepts it.
    pipeline : callable
        Called with one ``webdataset.WebDataset`` over the shard; returns an iterable of values.

    Yields
    ------
    key : str
        Key of the sample last read from the tar file: the value's own, unless the pipeline buffers samples
        (as a shuffle does).
    value
        As the pipeline yields it.

    Raises
    ------
    SampleError
        If the shard cannot be opened or is not a complete tar file, or if the pipeline raises or does not
        return an iterable; names the shard and the key.
    """
    library, seen = _library(), _Seen()
    # No splitting: this call reads the whole shard, whatever the rank or torch worker. No empty_check: an
    # empty shard is not an error, as others may have samples.
    dataset = library.WebDataset(shard, shardshuffle=False, nodesplitter=None, workersplitter=None,
                                 empty_check=False)  # fmt: skip
    # Record the open files: the library leaves closing them to the garbage collector.
    opener = [type(stage).__name__ for stage in dataset.pipeline].index("StreamingOpen")
    dataset.pipeline.insert(opener + 1, seen.opened)
    made = pipeline(dataset.map(seen.note))
    if not isinstance(made, Iterable):
        raise SampleError(
            f"shard {shard!r}: the pipeline returned {type(made).__name__}, which is not iterable; return the"
            " dataset: lambda dataset: dataset.decode('rgb8').to_tuple('jpg', 'cls')"
        )
    with contextlib.closing(seen):
        iterator = iter(made)
        while True:
            try:
                value = next(iterator)
            except StopIteration:
                break
            except Exception as error:
                raise _explained(error, shard, seen) from error
            yield seen.key, value
        seen.check_end(shard)


def image_and_label(dataset: Any) -> Any:
    """Return the pipeline for shards of image files and class numbers, as values of `image` and `label`."""
    return dataset.map(_by_field)


def _by_field(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sample's members by field name, the others by their own.

    A member that is missing, or a label that is no number, raises nothing here, where it would end the shard:
    the writer refuses the sample, or skips it.
    """
    members = {name: content for name, content in sample.items() if not name.startswith("__")}
    for field, names in MEMBERS.items():
        name = next((name for name in names if name in members), None)
        if name is not None:
            members[field] = members.pop(name)
    if "label" in members:
        with contextlib.suppress(ValueError):
            members["label"] = int(members["label"])
    return members


def _explained(error: Exception, shard: str, seen: _Seen) -> SampleError:
    """Return an error that says where in which shard `error` was raised."""
    where = f"shard {shard!r}, " + (f"at sample {seen.key!r}" if seen.key else "before its first sample")
    # webdataset appends the stream to an error's arguments; an OSError's first argument is its errno.
    said = getattr(error, "strerror", None) or (error.args[0] if error.args else "")
    what = f"{type(error).__name__}: {said}"
    if type(error).__module__ == "tarfile" or isinstance(error, (EOFError, OSError)):
        return SampleError(f"{where}: {what}; the tar file is damaged, truncated or missing")
    seen.check_end(shard)  # a truncated last sample is not the pipeline's error
    return SampleError(f"{where}: the pipeline raised {what}")
