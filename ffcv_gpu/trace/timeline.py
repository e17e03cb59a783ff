"""A timeline of spans for Perfetto (https://ui.perfetto.dev) and chrome://tracing."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any

from ffcv_gpu.trace.clock import StageClock
from ffcv_gpu.trace.watchers import Mark

__all__ = ["DEFAULT_MAX_SPANS", "Timeline"]

#: about 25 MB in memory, and as much as a file; an ImageNet epoch with 2 workers has about 50,000 spans
DEFAULT_MAX_SPANS = 100_000


class Timeline:
    """Records the spans of a clock inside a ``with`` block, and writes them at its end.

    The file is written atomically when the block ends, also by an exception. Every span has its thread,
    batch, epoch and number of samples. Only the last `max_spans` are kept; the file says how many are
    missing.

    Parameters
    ----------
    clock : StageClock
    path : path
        Path of the JSON file; replaced if it exists.
    max_spans : int
        Bounds the memory; a span takes about 250 bytes.

    Raises
    ------
    OSError
        On entering the block if `path` is a folder, or the file's folder is missing or not writable; at its
        end if the file cannot be written, of which nothing is left then.
    """

    def __init__(
        self, clock: StageClock, path: str | os.PathLike[str], max_spans: int = DEFAULT_MAX_SPANS
    ) -> None:
        self._clock, self.path = clock, Path(path).absolute()  # the folder may change until the end
        self._spans: deque[tuple[Mark, int, str, float, float]] = deque(maxlen=max_spans)
        self._lock = threading.Lock()
        self._seen = 0

    def __enter__(self) -> Timeline:
        if self.path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(self.path))
        self._room().unlink()  # so that a missing folder raises now, not after an epoch
        self._clock.watch(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clock.unwatch(self)
        part = self._room()
        try:
            part.write_text(json.dumps(self.as_dict()), encoding="utf-8")
            part.replace(self.path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise

    def _room(self) -> Path:
        """Create and return an empty temporary file next to the target."""
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        part.touch()
        return part

    def begin(self, mark: Mark) -> None:
        """Do nothing: a span is recorded when it ends."""

    def end(self, mark: Mark, begun: Any, start: float, seconds: float) -> None:
        """Record one span."""
        # The name with each span: every epoch has threads of its own, and the system uses an id again.
        thread, name = threading.get_native_id(), threading.current_thread().name
        with self._lock:
            self._seen += 1
            self._spans.append((mark, thread, name, start, seconds))

    def as_dict(self) -> dict[str, Any]:
        """Return the recorded spans in Chrome's trace format, with times in microseconds."""
        with self._lock:
            spans, missing = list(self._spans), self._seen - len(self._spans)
        process, names = os.getpid(), {thread: name for _, thread, name, *_ in spans}
        events: list[dict[str, Any]] = [
            {"ph": "M", "name": "thread_name", "pid": process, "tid": thread, "args": {"name": name}}
            for thread, name in names.items()
        ]
        events += [_event(process, mark, thread, *times) for mark, thread, _, *times in spans]
        about = {"spans": len(spans), "earlier_spans_left_out": missing}
        return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": about}


def _event(process: int, mark: Mark, thread: int, start: float, seconds: float) -> dict[str, Any]:
    about = {"samples": mark.items}
    if mark.batch is not None:
        about |= {"epoch": mark.batch[0], "batch": mark.batch[1]}
    return {
        "ph": "X",
        "name": mark.stage,
        "cat": "ffcv_gpu",
        "pid": process,
        "tid": thread,
        "ts": start * 1e6,
        "dur": seconds * 1e6,
        "args": about,
    }
