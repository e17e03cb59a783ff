"""Says that kernels are being compiled, so that the first batch on a machine does not look like a hang."""

from __future__ import annotations

import logging
import threading
import time

__all__ = ["Announcer"]

log = logging.getLogger(__name__)

#: compiling for less than this, all in all, is nobody's concern
PATIENCE_SECONDS = 2.0

TOLD = "compiling kernels, once per kind of machine and version; they are kept in %s"
LONG = (
    "ffcv_gpu is compiling its kernels: some seconds, once per kind of machine and version. They are kept in "
    "%s; NUMBA_CACHE_DIR names another folder"
)
IN_VAIN = (
    "ffcv_gpu is compiling its kernels: some seconds in every process, as no folder can be written in which "
    "to keep them. NUMBA_CACHE_DIR names one"
)
LOST = (
    "compiled kernels cannot be kept in %s (%s), and are compiled in every process. NUMBA_CACHE_DIR names "
    "another folder"
)


class Announcer:
    """Logs once that compiling has begun, and once, as a warning, that it has taken `patience` seconds.

    A warning, because Python shows it to those who never set up logging, and everybody else can turn it off.
    (XLA writes past Python's loggers, and cannot be silenced: github.com/jax-ml/jax/issues/26098.)

    Parameters
    ----------
    patience : float
        Seconds, over all compilations of the process.
    """

    def __init__(self, patience=PATIENCE_SECONDS):
        self._lock = threading.Lock()
        self._patience = patience
        self._began = {}  # by thread: the CPU's kernels and a GPU's may be compiled at the same time
        self._alarm = None
        self._told = self._warned = self._lost = False

    def begin(self, folder):
        """Note that this thread compiles something that is then kept in `folder`; None: nowhere."""
        with self._lock:
            first, self._told = not self._told, True
            self._began[threading.get_ident()] = time.monotonic()
            if not self._warned and self._alarm is None:
                self._alarm = threading.Timer(max(self._patience, 0.0), self._warn, (folder,))
                self._alarm.daemon = True
                self._alarm.start()
        if first and folder is not None:
            log.info(TOLD, folder)

    def end(self):
        """Note that this thread compiles nothing any more; it need not have begun."""
        with self._lock:
            began = self._began.pop(threading.get_ident(), None)
            if began is not None:
                self._patience -= time.monotonic() - began
            if self._alarm is not None and not self._began:
                self._alarm.cancel()
                self._alarm = None

    def lose(self, folder, error):
        """Say once that compiled code could not be written."""
        with self._lock:
            first, self._lost = not self._lost, True
        if first:
            log.warning(LOST, folder, error)

    def _warn(self, folder):
        with self._lock:
            if self._warned or not self._began:
                return
            self._warned = True
        if folder is None:
            log.warning(IN_VAIN)
        else:
            log.warning(LONG, folder)
