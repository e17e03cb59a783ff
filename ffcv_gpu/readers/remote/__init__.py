"""The reader for files in an object store: a mirror on the local disk, fetched ahead by the epoch's order.

``store`` is an object by obstore, ``mirror`` its copy, ``downloads`` the threads between them, ``schedule``
what they fetch when; ``file`` opens all of it, and ``reader`` is what the loader reads with.
"""

from __future__ import annotations

from ffcv_gpu.readers.remote.file import RemoteFile
from ffcv_gpu.readers.remote.reader import MirroredReader
from ffcv_gpu.readers.remote.store import is_url

__all__ = ["MirroredReader", "RemoteFile", "is_url"]
