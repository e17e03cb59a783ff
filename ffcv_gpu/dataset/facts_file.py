"""JPEG facts saved from one run to the next, in a folder that the user names: never next to the data.

One small file per field of a ``.beton`` file. It contains the identity of that file at the time; if it is
about another file, or damaged, it counts as missing and is rewritten.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from typing import Final

import numpy as np
import numpy.typing as npt

from ffcv_gpu.format import JPEG_FACTS, crc32c

__all__ = ["FactsFile"]

logger = logging.getLogger(__name__)

Bools = npt.NDArray[np.bool_]
Facts = npt.NDArray[np.void]

MAGIC: Final = b"ffcv_gpu JPEG facts 1\n"
SUM_BYTES: Final = 4


class FactsFile:
    """The file with the facts of one field's JPEGs.

    Layout: `MAGIC`, `identity` and a line feed, one byte per sample (1: known), one `JPEG_FACTS` per sample,
    and the CRC32C of everything before it, little-endian.

    Parameters
    ----------
    folder : str
    source : str
        The absolute path of the ``.beton`` file, or its URL. Together with `field` it determines the name, so
        that the facts of a new file replace those of an old one.
    field : str
    identity : str
        Changes when the file does.
    """

    def __init__(self, folder: str, source: str, field: str, identity: str) -> None:
        named = hashlib.sha256(f"{source}\0{field}".encode()).hexdigest()
        self.path = os.path.join(folder, f"{named[:32]}.jpegfacts")
        self._head = MAGIC + identity.encode() + b"\n"

    def load(self, num_samples: int) -> tuple[Bools, Facts] | None:
        """Return which samples are known and the facts of all, (n,) each; None if there is no valid file."""
        try:
            with open(self.path, "rb") as file:
                raw = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            logger.warning("cache_dir: cannot read %s: %s; scanning the JPEGs again", self.path, error)
            return None
        body = len(self._head) + num_samples * (1 + JPEG_FACTS.itemsize)
        if len(raw) != body + SUM_BYTES or not raw.startswith(self._head):
            return None
        if crc32c(raw[:body]) != int.from_bytes(raw[body:], "little"):
            return None
        known = np.frombuffer(raw, np.bool_, num_samples, len(self._head))
        return known, np.frombuffer(raw, JPEG_FACTS, num_samples, len(self._head) + num_samples)

    def save(self, known: Bools, facts: Facts) -> None:
        """Write both, atomically; if that fails, log a warning."""
        raw = self._head + known.tobytes() + facts.tobytes()
        raw += crc32c(raw).to_bytes(SUM_BYTES, "little")
        try:
            self._replace(raw)
        except OSError as error:
            logger.warning("cache_dir: cannot write %s: %s; the JPEG facts are not saved", self.path, error)

    def _replace(self, raw: bytes) -> None:
        folder, name = os.path.split(self.path)
        handle, part = tempfile.mkstemp(prefix=f".{name}.", dir=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
            os.replace(part, self.path)
        except BaseException:
            os.unlink(part)
            raise
