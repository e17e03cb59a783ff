"""libturbojpeg 3, compiled from source: with it, ffcv_gpu's CPU path decodes only what the crop needs.

On Debian and Ubuntu first::

    apt install cmake make gcc nasm

then ``python -m benchmarks setup-peer libturbojpeg``, which takes a minute and prints a line for your shell.
The benchmarks find it there. FFCV_GPU_TURBOJPEG names an existing library.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import ROOT

__all__ = ["LIBTURBOJPEG", "NativeLibrary"]

DEBIAN = "cmake make gcc nasm"


@dataclass(frozen=True)
class NativeLibrary:
    """A library compiled from its source.

    Attributes
    ----------
    name, version
        as in ``setup-peer NAME``
    variable
        environment variable that names its file
    file, target
        the file, and cmake's target
    sources, sha256
        URLs of one archive, tried in order, and its digest
    """

    name: str
    version: str
    variable: str
    file: str
    target: str
    sources: tuple[str, ...]
    sha256: str

    @property
    def home(self) -> Path:
        """Where `install` puts the file (ignored by git)."""
        return ROOT / "bench-output" / "peers" / self.name

    def find(self) -> str | None:
        """Let this process and its children use the installed library; returns why none is usable."""
        own = self.home / self.file
        if own.exists():
            os.environ.setdefault(self.variable, str(own))
        from ffcv_gpu.errors import BackendUnavailable
        from ffcv_gpu.native.turbojpeg3 import library

        try:
            found = library()
        except BackendUnavailable as error:
            return str(error)
        return None if found else f"not installed; python -m benchmarks setup-peer {self.name}"

    def install(self, home: Path | None = None, options: Sequence[str] = ()) -> str:
        """Compile it into `home`; returns a line for the shell. `options` are passed to cmake.

        Raises
        ------
        RuntimeError
            If a tool is missing, the download fails, or it does not compile.
        """
        tools = ["cmake", "make", "cc", *(["nasm"] if platform.machine() == "x86_64" else [])]
        missing = [tool for tool in tools if shutil.which(tool) is None]
        if missing:
            raise RuntimeError(f"{self.name} is compiled by {', '.join(missing)}: apt install {DEBIAN}")
        home = (home or self.home).absolute()
        with tempfile.TemporaryDirectory() as folder:
            with tarfile.open(fileobj=io.BytesIO(self._download())) as archive:
                archive.extractall(folder, filter="data")
            (source,) = Path(folder).iterdir()
            build = source / "build"
            # Without SIMD it would silently be three times slower.
            flags = ("-DCMAKE_BUILD_TYPE=Release", "-DENABLE_STATIC=0", "-DREQUIRE_SIMD=1", *options)
            _run("cmake", "-S", str(source), "-B", str(build), *flags)
            _run("cmake", "--build", str(build), "--target", self.target, "--parallel")
            home.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(build / self.file, home / self.file)
        return f"export {self.variable}={home / self.file}"

    def _download(self) -> bytes:
        """Return the archive from the first URL that has it."""
        refused = []
        for source in self.sources:
            print("from", source, file=sys.stderr)
            try:
                with urllib.request.urlopen(source, timeout=60) as answer:
                    data: bytes = answer.read()
            except OSError as error:
                refused.append(f"{source}: {error}")
                continue
            if hashlib.sha256(data).hexdigest() == self.sha256:
                return data
            refused.append(f"{source}: not the archive of {self.name} {self.version} that was expected")
        raise RuntimeError("; ".join(refused))


def _run(*command: str) -> None:
    print(*command[:2], "...", file=sys.stderr)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:2])} failed:\n{(done.stdout + done.stderr)[-2000:]}")


LIBTURBOJPEG = NativeLibrary(
    name="libturbojpeg",
    version="3.1.3",
    variable="FFCV_GPU_TURBOJPEG",
    file="libturbojpeg.so.0",
    target="turbojpeg",
    sources=(
        "https://github.com/libjpeg-turbo/libjpeg-turbo/releases/download/3.1.3/libjpeg-turbo-3.1.3.tar.gz",
        "http://deb.debian.org/debian/pool/main/libj/libjpeg-turbo/libjpeg-turbo_3.1.3.orig.tar.gz",
    ),
    sha256="3a13a5ba767dc8264bc40b185e41368a80d5d5f945944d1dbaa4b2fb0099f4e5",
)
