"""WebDataset shards: tar files of samples, streamed by the `webdataset` library itself.

The writer opens each shard once, by `samples`, in the process that encodes it.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

from ffcv_gpu.errors import PipelineError, SampleError

__all__ = ["image_and_label", "require_webdataset", "samples", "shard_names"]

TAR_BLOCK = 512


def require_webdataset() -> ModuleType:
    """Return the library; raise `PipelineError` with the line to install if it is missing."""
    try:
        import webdataset
    except ImportError as error:
        raise PipelineError(
            "WebDataset shards need the webdataset library; pip install 'ffcv-gpu[webdataset]'"
        ) from error
    module: ModuleType = webdataset
    return module


def shard_names(shards: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return the shards' names, in order; braces as in ``"train-{0000..0146}.tar"`` are expanded."""
    require_webdataset()
    import braceexpand

    given = [shards] if isinstance(shards, (str, os.PathLike)) else list(shards)
    names: list[str] = []
    for shard in given:
        names += [*braceexpand.braceexpand(shard)] if isinstance(shard, str) else [os.fspath(shard)]
    return names


class _Seen:
    """Notes each sample on its way from the tar file into the user's pipeline, and the open file."""

    def __init__(self) -> None:
        self.key = ""
        self.streams: list[Any] = []

    def note(self, sample: Any) -> Any:
        self.key = sample["__key__"]
        return sample

    def opened(self, sources: Iterable[Any]) -> Iterator[Any]:
        for source in sources:
            self.streams.append(source["stream"])
            yield source

    def close(self) -> None:
        # A pipe whose reader leaves early complains of its command's status.
        for stream in self.streams:
            with contextlib.suppress(OSError):
                stream.close()


def samples(shard: str, pipeline: Callable[[Any], Iterable[Any]]) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) for each sample that `pipeline` makes of a shard, in its order.

    Parameters
    ----------
    shard : str
        A path, a URL or ``pipe:command``, as webdataset takes it.
    pipeline : callable
        Called with one ``webdataset.WebDataset`` over the shard; returns an iterable of values.

    Yields
    ------
    key : str
        That of the sample last read from the tar file: the value's own, unless the pipeline keeps
        samples back (shuffles).
    value

    Raises
    ------
    SampleError
        If the shard cannot be opened or is no whole tar file, or the pipeline returns nothing to iterate
        over, or raises; names the shard and the key.
    """
    library, seen = require_webdataset(), _Seen()
    _check_end(shard)
    # Neither ranks nor torch's workers share the shard: it is this call's alone. An empty shard is none of
    # webdataset's errors: other shards may have samples.
    dataset = library.WebDataset(shard, shardshuffle=False, nodesplitter=None, workersplitter=None,
                                 empty_check=False)  # fmt: skip
    # The library leaves its files to the garbage collector.
    opener = [type(stage).__name__ for stage in dataset.pipeline].index("StreamingOpen")
    dataset.pipeline.insert(opener + 1, seen.opened)
    made = pipeline(dataset.map(seen.note))
    if not isinstance(made, Iterable):
        raise SampleError(
            f"shard {shard!r}: the pipeline returned {type(made).__name__}, nothing to iterate over; return"
            " the dataset: lambda dataset: dataset.decode('rgb8').to_tuple('jpg', 'cls')"
        )
    with contextlib.closing(seen):
        iterator = iter(made)
        while True:
            with _Explain(shard, seen):
                try:
                    value = next(iterator)
                except StopIteration:
                    return
            yield seen.key, value


def image_and_label(dataset: Any) -> Any:
    """Return the pipeline for shards of image files and class numbers: (bytes as they are, label)."""
    return dataset.to_tuple("jpg;jpeg;png;webp;bmp;ppm;tif;tiff", "cls;label").map_tuple(None, int)


class _Explain:
    """Says, of whatever exception leaves the block, where in which shard it was raised."""

    def __init__(self, shard: str, seen: _Seen) -> None:
        self._shard, self._seen = shard, seen

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception):
            return
        reached = f"at sample {self._seen.key!r}" if self._seen.key else "before its first sample"
        where = f"shard {self._shard!r}, {reached}"
        # webdataset adds the stream to an error's arguments; an OSError's first one is a number.
        said = getattr(error, "strerror", None) or (error.args[0] if error.args else "")
        what = f"{type(error).__name__}: {said}"
        if type(error).__module__ == "tarfile" or isinstance(error, (EOFError, OSError)):
            raise SampleError(f"{where}: {what}; the tar file is damaged, cut short or not there") from error
        raise SampleError(f"{where}: the pipeline raised {what}") from error


def _check_end(shard: str) -> None:
    """Refuse a local tar file without the zeros that end it: cut between two members, it reads as whole."""
    if re.match(r"^(?!file:)[a-z][a-z0-9+]*:", shard) or not shard.endswith(".tar"):
        return
    path = shard.removeprefix("file:")
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(size - TAR_BLOCK, 0))
            end = file.read()
    except OSError as error:
        raise SampleError(f"cannot read the shard {shard!r}: {error.strerror}") from error
    if len(end) < TAR_BLOCK or any(end):
        raise SampleError(
            f"shard {shard!r} ({size} bytes) does not end as a tar file does, with a block of zeros: it was"
            " cut short; fetch or write it again"
        )
