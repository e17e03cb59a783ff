"""The reader for files in an object store: fetches ahead, in the epoch's order, into a copy on a local disk.

``store`` reads the object with obstore; ``folder`` and ``mirror`` manage the copies; ``downloads`` fetches,
in the order of ``schedule``. ``file`` opens all of them, and ``reader`` is the loader's reader.
"""

from __future__ import annotations

from ffcv_gpu.readers.remote.file import RemoteFile
from ffcv_gpu.readers.remote.reader import MirroredReader
from ffcv_gpu.readers.remote.store import is_url

__all__ = ["MirroredReader", "RemoteFile", "is_url"]
