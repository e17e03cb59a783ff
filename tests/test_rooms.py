"""The house's rules about imports: they point down, and some packages live in one room only.

The order is the one of the README's architecture section. Every import statement counts, also one inside
a function or under TYPE_CHECKING, and every string that is a module's name: `import_module` may get it.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

# Top first. A room may import from lower rows only; rooms of one row do not know each other.
ROWS = (
    ("__init__", "__main__"),
    (
        "libffcv",
        "memory_allocator",
        "memory_managers",
        "reader",
        "ssl",
        "traversal_order",
        "types",
        "utils",
    ),  # FFCV's old module paths, see REEXPORTS
    ("cli",),
    ("doctor",),
    ("convert",),
    ("loader", "writer", "decode"),
    ("dataset",),
    ("compat",),
    ("compose",),
    ("staging",),
    ("plan",),
    ("pipeline",),
    ("transforms", "jpeg", "readers", "fields"),
    ("device",),
    ("steps", "crops"),
    ("format",),
    ("sampling",),
    ("draws",),
    ("native",),
    ("kernels",),
    ("trace",),
    ("cpus", "limits"),
    ("errors",),
    ("__version__",),  # a string in __init__.py that every room may read
)
LEVEL = {room: level for level, row in enumerate(ROWS) for room in row}

# In these rooms a file is one thing of a kind: it knows base.py and the lower rooms, not its siblings.
ONE_THING_EACH = frozenset({"transforms", "jpeg", "readers", "fields"})

# (importer, imported) -> why. A room stands for all its modules.
ALLOWED = {
    ("fields.rgb_image", "fields.incoming"): "its first third: what came",
    ("fields.rgb_image", "fields.outgoing"): "its last third: as what it is stored",
    ("fields.outgoing", "fields.incoming"): "what came is what is stored",
    ("fields.incoming", "jpeg.facts"): "a JPEG's headers tell its size",
    ("fields.incoming", "fields.exif"): "what came may tell its orientation",
    ("fields.exif", "jpeg.facts"): "EXIF data are the same in all kinds of files",
    ("fields.outgoing", "jpeg.facts"): "pass-through of JPEG bytes needs their facts before they are stored",
    ("fields.outgoing", "jpeg.rewrite"): "progressive and restart-marker files are made baseline when stored",
    ("fields.rgb_image", "jpeg.rewrite"): "shrinking, which it loads ahead, and FFCV's names for it",
    ("fields.rgb_image", "fields.target"): "what the writer settles of it: a contract, no field",
    ("fields.image", "jpeg.rewrite"): "one rule of how far an image is shrunk",
    ("jpeg.rewrite", "jpeg.facts"): "rewrites by what the scan of the headers found",
    ("jpeg.crop_index", "jpeg.facts"): "which kinds get an index",
    ("fields.outgoing", "jpeg.crop_index"): "JPEGs are given their index when they are stored",
    ("fields.rgb_image", "jpeg.crop_index"): "what makes the index is loaded ahead",
    ("jpeg.scan", "jpeg.facts"): "words for what is wrong with a damaged header",
    ("jpeg.nvjpeg", "jpeg.routing"): "which of its ways an image takes is policy, kept apart",
    ("jpeg.nvjpeg", "jpeg.scan"): "images that come without facts",
    ("jpeg.turbo", "jpeg.facts"): "whether what libjpeg refuses is damaged, or a kind that it does not know",
    ("jpeg.one_call", "jpeg.turbo"): "what libturbojpeg refuses, and the last word on what is damaged",
    ("jpeg.turbo2", "jpeg.one_call"): "all images of a call at once",
    ("jpeg.turbo3", "jpeg.one_call"): "all images of a call at once",
    ("jpeg.nvjpeg", "jpeg.turbo"): "the last way of an image that no GPU decoder takes",
}

_OLD_NAMES = "FFCV has these names in its field modules; imported when one is asked for"

# As ALLOWED, for what is named by a string, and imported only when it is needed.
BY_STRING = {
    ("fields.base", "fields.decoders"): "a field names its default decoder: decoders know fields",
    ("fields.base", "compat"): _OLD_NAMES,
    ("fields.base", "libffcv"): _OLD_NAMES,
    ("fields.rgb_image", "compat.crops"): _OLD_NAMES,
    ("fields.decoders.crops", "compat.crops"): "a user's crop function is compiled by numba",
    ("fields.target", "doctor"): "a target is settled by measuring, and doctor measures with loaders",
    ("pipeline.fuse", "compat.again"): "steps behind a user's FFCV operation",
    ("pipeline.outputs", "compat.adopted"): "a step of a user's that only has FFCV's methods",
    ("transforms.ops", "transforms.convert"): "FFCV has Convert in its module ops",
    ("writer.dataset_writer", "convert.webdataset"): "FFCV's from_webdataset is a method of the writer",
    ("cli.api", "reader"): "the API page has all public modules",
    ("cli.api", "ssl"): "the API page has all public modules",
    ("cli.api", "traversal_order.base"): "the API page has all public modules",
}

# Re-export modules: FFCV's old module paths. They may import names from anywhere, and do nothing else
# (test_reexport_modules_only_import). In modules that exist anyway, old names come by __getattr__ instead.
REEXPORTS = frozenset(
    {
        "libffcv",
        "loader.epoch_iterator",
        "memory_allocator",
        "memory_managers",
        "memory_managers.base",
        "memory_managers.os_cache",
        "memory_managers.process_cache",
        "pipeline.allocation_query",
        "pipeline.compiler",
        "pipeline.graph",
        "pipeline.operation",
        "pipeline.pipeline",
        "pipeline.pipeline_spec",
        "pipeline.state",
        "reader",
        "transforms.common",
        "transforms.utils.fast_crop",
        "traversal_order",
        "traversal_order.base",
        "traversal_order.quasi_random",
        "traversal_order.random",
        "traversal_order.sequential",
        "types",
        "utils",
    }
)

# package -> rooms it may be imported in
CONFINED = {
    "ctypes": frozenset({"native"}),
    "numba": frozenset({"kernels", "compat"}),
    "llvmlite": frozenset({"kernels"}),
}


def imported(name: str, source: str, modules: set[str]) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything the module imports, "from package import module" resolved."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if f"{name}.__init__" in modules else name.split(".")[:-1]
                package = package[: len(package) - node.level + 1]
                base = ".".join([*package, base] if base else package)
            for alias in node.names:
                full = f"{base}.{alias.name}"
                known = modules & {full, f"{full}.__init__"} or full == "ffcv_gpu.__version__"
                yield node.lineno, full if known else base


def named(source: str, modules: set[str]) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of every string in the module that is the name of a module of ours."""
    for node in ast.walk(ast.parse(source)):
        text = node.value if isinstance(node, ast.Constant) else None
        # "ffcv_gpu" alone also names threads and ranges.
        if isinstance(text, str) and "." in text and modules & {text, f"{text}.__init__"}:
            yield node.lineno, text


def matches(module: str, pattern: str) -> bool:
    return module == pattern or module.startswith(f"{pattern}.")


def complaint(importer: str, target: str, allowed: Mapping[tuple[str, str], str] = ALLOWED) -> str | None:
    """Say what is wrong with this import, or None. Names come without the leading "ffcv_gpu."."""
    room, other = importer.split(".")[0], target.split(".")[0]
    if importer in REEXPORTS or any(matches(importer, a) and matches(target, b) for a, b in allowed):
        return None
    if room not in LEVEL or other not in LEVEL:
        return f"{room if room not in LEVEL else other} is in no row of ROWS"
    if other == "__init__":
        return "inside the package, import from the module that defines a name, not from ffcv_gpu"
    if room != other:
        return None if LEVEL[other] > LEVEL[room] else f"{room} may not import {other}: imports point down"
    if room not in ONE_THING_EACH or importer in (room, f"{room}.base") or target == f"{room}.base":
        return None
    if importer.split(".")[:2] == target.split(".")[:2]:
        return None  # a thing that is a folder, such as jpeg/nvjpeg/, knows itself
    return f"siblings in {room}/ know only base.py, not {target}"


def violations(sources: dict[str, str]) -> list[str]:
    """Check modules given as {"ffcv_gpu.loader.job": source}; packages end in ".__init__"."""
    modules = set(sources)
    found: list[str] = []
    for key, source in sources.items():
        name = key.removesuffix(".__init__")
        importer = name.removeprefix("ffcv_gpu.") if name != "ffcv_gpu" else "__init__"
        for line, target in imported(name, source, modules):
            package = target.split(".")[0]
            if package in CONFINED and importer.split(".")[0] not in CONFINED[package]:
                found.append(f"{key}:{line}: {package} belongs in {', '.join(sorted(CONFINED[package]))}")
            if package == "ffcv_gpu":
                inner = target.removeprefix("ffcv_gpu.") if target != "ffcv_gpu" else "__init__"
                reason = complaint(importer, inner)
                found += [f"{key}:{line}: {reason}"] if reason else []
        for line, target in named(source, modules):
            reason = complaint(importer, target.removeprefix("ffcv_gpu."), {**ALLOWED, **BY_STRING})
            found += [f"{key}:{line}: by a string: {reason}"] if reason else []
    return list(dict.fromkeys(found))  # one line may import several names of one module


def house(root: Path) -> dict[str, str]:
    """Read every module of the package and of kernels/, keyed by dotted name."""
    sources = {}
    for folder, prefix in ((root / "ffcv_gpu", "ffcv_gpu"), (root / "kernels", "ffcv_gpu.kernels")):
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            sources[".".join((prefix, *parts))] = path.read_text(encoding="utf-8")
    return sources


def test_imports_point_down(root: Path) -> None:
    sources = house(root)
    assert "ffcv_gpu.kernels.codes" in sources
    assert "ffcv_gpu.errors" in sources
    assert violations(sources) == []


def test_what_is_permitted_by_string_is_needed(root: Path) -> None:
    sources = house(root)
    edges = {
        (key.removeprefix("ffcv_gpu.").removesuffix(".__init__"), target.removeprefix("ffcv_gpu."))
        for key, source in sources.items()
        for _, target in named(source, set(sources))
    }
    assert [edge for edge in BY_STRING if edge not in edges] == []


def only_imports(source: str) -> bool:
    """True if a module holds a docstring, imports, `__all__`, and nothing else."""
    docstring, *rest = ast.parse(source).body
    names = [target for node in rest if isinstance(node, ast.Assign) for target in node.targets]
    return (
        isinstance(docstring, ast.Expr)
        and all(isinstance(node, ast.ImportFrom | ast.Assign) for node in rest)
        and [ast.unparse(name) for name in names] == ["__all__"]
    )


def test_reexport_modules_only_import(root: Path) -> None:
    sources = house(root).items()
    modules = {key.removeprefix("ffcv_gpu.").removesuffix(".__init__"): text for key, text in sources}
    assert set(modules) >= REEXPORTS
    assert [name for name in sorted(REEXPORTS) if not only_imports(modules[name])] == []
    assert not only_imports(modules["pipeline"])


def test_every_room_is_in_the_readme(root: Path) -> None:
    rooms = {key.split(".")[1] for key in house(root)} - {"__init__", "__main__"}
    picture = (root / "README.md").read_text(encoding="utf-8").split("## Architecture")[1]
    missing = [room for room in rooms if f"{room}/" not in picture and f"{room}.py" not in picture]
    assert missing == []


PLANTED = [
    ("ffcv_gpu.errors", "from ffcv_gpu.loader import Loader", "errors may not import loader"),
    ("ffcv_gpu.errors", "def f():\n    import ffcv_gpu.loader.job", "errors may not import loader"),
    ("ffcv_gpu.loader.job", "from ffcv_gpu import writer", "loader may not import writer"),
    ("ffcv_gpu.writer.__init__", "from ..loader import Loader", "writer may not import loader"),
    ("ffcv_gpu.loader.job", "from ffcv_gpu import Loader", "not from ffcv_gpu"),
    ("ffcv_gpu.steps", "if TYPE_CHECKING:\n    from .crops import CROP_DRAWS", "steps may not import crops"),
    ("ffcv_gpu.transforms.flip", "from .cutout import Cutout", "siblings in transforms/"),
    ("ffcv_gpu.transforms.flip", "from ffcv_gpu.transforms import Cutout", "siblings in transforms/"),
    ("ffcv_gpu.fields.json", "from ffcv_gpu.jpeg import facts", "fields may not import jpeg"),
    ("ffcv_gpu.errors", 'import_module("ffcv_gpu.loader")', "by a string: errors may not import loader"),
    ("ffcv_gpu.transforms.flip", "HOME = 'ffcv_gpu.transforms.cutout'", "siblings in transforms/"),
    ("ffcv_gpu.attic", "from ffcv_gpu import errors", "attic is in no row"),
    ("ffcv_gpu.device.cpu", "import ctypes.util", "ctypes belongs in native"),
    ("ffcv_gpu.compose", "from numba import njit", "numba belongs in compat, kernels"),
    ("ffcv_gpu.kernels.codes", "from ffcv_gpu.native import driver", "kernels may not import native"),
]


@pytest.mark.parametrize(("module", "source", "expected"), PLANTED)
def test_a_planted_violation_is_caught(module: str, source: str, expected: str) -> None:
    tree = dict.fromkeys(["errors", "steps", "crops", "writer.__init__", "loader.__init__", "jpeg.facts"], "")
    sources = {f"ffcv_gpu.{name}": "" for name in [*tree, "transforms.__init__", "transforms.cutout"]}
    found = violations({**sources, "ffcv_gpu.__init__": "", module: source})
    assert len(found) == 1
    assert expected in found[0]


SOUND = [
    ("ffcv_gpu.loader.job", "from ffcv_gpu.errors import ReadError\nfrom . import dataset"),
    ("ffcv_gpu.transforms.flip", "from .base import probability\nfrom ffcv_gpu.steps import Mirror"),
    ("ffcv_gpu.transforms.__init__", "from ffcv_gpu.transforms.flip import RandomHorizontalFlip"),
    ("ffcv_gpu.native.driver", "import ctypes"),
    ("ffcv_gpu.format.section", "from ffcv_gpu import __version__"),
    ("ffcv_gpu.kernels._numba", "import numba\nfrom ffcv_gpu import errors"),
    ("ffcv_gpu.__init__", "from ffcv_gpu.loader import Loader"),
]


@pytest.mark.parametrize(("module", "source"), SOUND)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert violations({"ffcv_gpu.__init__": "", "ffcv_gpu.errors": "", module: source}) == []
