"""The API page, generated from the docstrings: ``python -m ffcv_gpu.cli.api > API.md``."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import io
import re
import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

__all__ = ["MODULES", "Entry", "entries", "main", "page"]

#: heading -> module whose `__all__` is public
MODULES = {
    "Loading": "ffcv_gpu.loader",
    "What a Loader measures": "ffcv_gpu.trace",
    "Decoding without a file": "ffcv_gpu.decode",
    "Writing": "ffcv_gpu.writer",
    "Sources for the writer: folders": "ffcv_gpu.convert.image_folder",
    "Sources for the writer: parquet files": "ffcv_gpu.convert.parquet",
    "Sources for the writer: Hugging Face's datasets": "ffcv_gpu.convert.hugging_face",
    "Any sample of a file, also as a source for the writer": "ffcv_gpu.convert.beton",
    "Fields": "ffcv_gpu.fields",
    "Decoders": "ffcv_gpu.fields.decoders",
    "Decoders of arrays of any length, boxes and points": "ffcv_gpu.fields.ragged",
    "Transforms": "ffcv_gpu.transforms",
    "Transforms of FFCV-SSL": "ffcv_gpu.ssl",
    "Pipelines": "ffcv_gpu.pipeline",
    "Custom operations": "ffcv_gpu.pipeline.operation",
    "Custom orders": "ffcv_gpu.traversal_order.base",
    "Inspecting a file": "ffcv_gpu.reader",
    "What slows a file's loading, and files for a target speed": "ffcv_gpu.doctor",
    "Exceptions": "ffcv_gpu.errors",
}
#: module -> those of its public names that users meet, where these are not all
ONLY = {"ffcv_gpu.trace": ("Profile", "StageStats", "StageTime")}
#: modules of classes that are no more than a part of a public one: what they define belongs to that one
PARTS = frozenset({"ffcv_gpu.loader.attributes", "ffcv_gpu.loader.resume"})
RULE = re.compile(r"^-{3,}$")


class Entry(NamedTuple):
    """One public class or function."""

    heading: str
    path: str
    what: Any

    @property
    def name(self) -> str:
        """The name without the module."""
        return self.path.rpartition(".")[2]


def entries() -> Iterator[Entry]:
    """Yield every public class and function once, module by module."""
    seen: set[int] = set()
    for heading, name in MODULES.items():
        if importlib.util.find_spec(name) is None:
            continue
        module = importlib.import_module(name)
        for public in ONLY.get(name, module.__all__):
            what = getattr(module, public)
            if (inspect.isclass(what) or inspect.isfunction(what)) and id(what) not in seen:
                seen.add(id(what))
                yield Entry(heading, f"{name}.{public}", what)


def page() -> str:
    """Return the page as Markdown."""
    lines = ["# API", "", "Generated from the docstrings by `python -m ffcv_gpu.cli.api`.", ""]
    heading = ""
    for entry in entries():
        if entry.heading != heading:
            heading = entry.heading
            lines += [f"## {heading}", ""]
        lines += [f"### `{entry.name}`", "", f"    {entry.path}{signature(entry.what)}", ""]
        lines += [*markdown(inspect.getdoc(entry.what) or ""), ""]
        for name, member in methods(entry.what):
            lines += [f"#### `{entry.name}.{name}{signature(member)}`", ""]
            lines += [*markdown(inspect.getdoc(member) or ""), ""]
        for name, member in properties(entry.what):
            lines += [f"#### `{entry.name}.{name}`", "", *markdown(inspect.getdoc(member) or ""), ""]
    return "\n".join(lines).rstrip() + "\n"


def methods(what: Any) -> Iterator[tuple[str, Any]]:
    """Yield the public methods that a class itself defines, or one of its parts (`PARTS`)."""
    for kind in (what, *parts(what)) if inspect.isclass(what) else ():
        for name, member in vars(kind).items():
            plain = member.__func__ if isinstance(member, staticmethod | classmethod) else member
            if not name.startswith("_") and inspect.isfunction(plain):
                yield name, plain


def properties(what: Any) -> Iterator[tuple[str, Any]]:
    """Yield the public properties of a class's parts; other classes describe theirs as attributes."""
    for kind in parts(what):
        for name, member in vars(kind).items():
            if not name.startswith("_") and isinstance(member, property | cached_property):
                yield name, member


def parts(what: Any) -> list[Any]:
    """Return the classes that are parts of a public one."""
    return [kind for kind in getattr(what, "__bases__", ()) if kind.__module__ in PARTS]


def signature(what: Any) -> str:
    """Return the parameters in parentheses, without annotations: the docstring states the types."""
    if inspect.isclass(what) and issubclass(what, BaseException):
        return ""
    try:
        found = inspect.signature(what)
    except (TypeError, ValueError):  # a class from another library, written in C
        return ""
    empty = inspect.Parameter.empty
    kept = [p.replace(annotation=empty) for p in found.parameters.values() if p.name not in ("self", "cls")]
    return str(found.replace(parameters=kept, return_annotation=empty))


def markdown(text: str) -> Iterator[str]:
    """Yield a NumPy docstring as Markdown lines: section titles become bold, parameters become lists."""
    lines = [*text.splitlines(), ""]
    in_list, skip = False, False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if skip:
            skip = False
        elif RULE.match(following):
            in_list = line.strip() in ("Parameters", "Attributes", "Raises", "Returns", "Yields")
            skip = True
            yield from (f"**{line.strip()}**", "")
        elif in_list and line and not line.startswith(" "):
            name, colon, kind = line.partition(" : ")
            yield f"- `{name}`{f': {kind}' if colon else ''}"
        else:
            # Lines of code blocks and tables pass unchanged; RST's `::` before a code block becomes `:`.
            yield (
                line.replace("``", "`").removesuffix(":") if line.endswith("::") else line.replace("``", "`")
            )


def main() -> None:
    """Print the page."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of authors may not fit the terminal's encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    print(page(), end="")


if __name__ == "__main__":
    main()
