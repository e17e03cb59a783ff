"""Fuzz for as long as you like: ``python tests/fuzz/fuzz.py format|jpeg [libFuzzer's options] [FOLDER]``.

Needs atheris (``pip install atheris``), which nothing else needs. Begins with the kept corpus; what it finds
new goes to FOLDER, if one is given. ``-max_total_time=60`` is a minute; a file given in place of a folder is
run once. Code that atheris has instrumented keeps the frames of its exceptions, about 9 kB an input (without
atheris nothing grows): go on after five minutes by the same command with the same FOLDER.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

HERE = Path(__file__).resolve().parent


def main(name: str, options: list[str]) -> None:
    """Run libFuzzer, which ends the process."""
    sys.path.insert(0, str(HERE))
    with atheris.instrument_imports(
        include=["ffcv_gpu.format", "ffcv_gpu.jpeg.facts", "ffcv_gpu.fields.ndarray"]
    ):
        import targets
    check = targets.TARGETS[name]
    check((HERE / "corpus" / name / "seed-0").read_bytes())  # compiles what is compiled on first use
    folders = [option for option in options if not option.startswith("-")]
    corpus = [] if folders and Path(folders[0]).is_file() else [str(HERE / "corpus" / name)]
    flags = [option for option in options if option.startswith("-")]
    size = f"-max_len={1 << 16}"
    defaults = [size, "-timeout=20", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *defaults, *flags, *folders, *corpus], check)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
