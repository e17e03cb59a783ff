"""The binding against NVIDIA's own nvjpeg.h, of both wheels: names, argument types, enums, flags, structs.

The header is read by pycparser; its few preprocessor lines are taken out by hand, so no C compiler is
needed.
"""

from __future__ import annotations

import ctypes
import re
from dataclasses import dataclass, field
from enum import IntEnum
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from pycparser import c_ast, c_generator, c_parser

from ffcv_gpu.native import nvjpeg, nvjpeg_types

WHEELS = {
    "nvidia-nvjpeg": "nvidia/cu13/include/nvjpeg.h",
    "nvidia-nvjpeg-cu12": "nvidia/nvjpeg/include/nvjpeg.h",
}

# What nvjpeg.h takes from CUDA's headers.
FOREIGN = """
typedef unsigned long size_t;
typedef struct CUstream_st *cudaStream_t;
typedef enum { MAJOR_VERSION, MINOR_VERSION, PATCH_LEVEL } libraryPropertyType;
"""

# Not of the decode half, or superseded (nvjpegCreate, by nvjpegCreateEx).
NOT_BOUND = re.compile(r"nvjpeg(Create|GetHardwareEncoderInfo|Enc\w+)")
NOT_BOUND_ENUMS = {"nvjpegInputFormat_t", "nvjpegEncBackend_t"}
# A bound of the enum, not a format; 9 in 12.4 and 10 since 13.1.
NOT_A_MEMBER = "NVJPEG_OUTPUT_FORMAT_MAX"
SINCE_13 = {"NVJPEG_OUTPUT_UNCHANGEDI"}

ENUMS = {
    name: value
    for name, value in vars(nvjpeg_types).items()
    if isinstance(value, type) and issubclass(value, IntEnum) and value is not IntEnum
}
STRUCTS = {
    name: value
    for name, value in vars(nvjpeg_types).items()
    if isinstance(value, type) and issubclass(value, ctypes.Structure)
}


@dataclass
class Header:
    functions: dict[str, tuple[str, list[str]]] = field(default_factory=dict)
    enums: dict[str, dict[str, int]] = field(default_factory=dict)
    structs: dict[str, list[tuple[str, c_ast.Node]]] = field(default_factory=dict)
    callbacks: dict[str, list[str]] = field(default_factory=dict)
    macros: dict[str, int] = field(default_factory=dict)

    @property
    def version(self) -> tuple[int, ...]:
        return tuple(self.macros[f"NVJPEG_VER_{part}"] for part in ("MAJOR", "MINOR", "PATCH"))


def spelled(node: c_ast.Node) -> str:
    """A parameter's C type without its name and without const."""
    if isinstance(node, c_ast.Typename):
        return spelled(node.type)
    text = c_generator.CGenerator().visit(node.type if isinstance(node, c_ast.Decl) else node)
    if isinstance(node, c_ast.Decl) and node.name:
        text = re.sub(rf"\b{node.name}\b", "", text)
    return re.sub(r"\s+", "", text.replace("const", "").replace("unsigned ", "u"))


def parameters(declaration: c_ast.FuncDecl) -> list[str]:
    return [spelled(parameter) for parameter in declaration.args.params]


def number(text: str) -> int:
    """The value of 7, 0xc0, -1 or 1<<5."""
    value, _, shift = text.replace(" ", "").partition("<<")
    return int(value, 0) << int(shift or 0)


def read(path: Path) -> Header:
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)
    header = Header()
    for name, value in re.findall(r"^#define +(NVJPEG_\w+) +([0-9<]+)", text, re.MULTILINE):
        header.macros[name] = number(value)
    text = re.sub(r"#if defined\(__cplusplus\).*?#endif", "", text, flags=re.DOTALL)
    text = re.sub(r"^ *#.*$", "", text, flags=re.MULTILINE).replace("NVJPEGAPI", "")
    text = text.replace("NVJPEG_MAX_COMPONENT", str(header.macros["NVJPEG_MAX_COMPONENT"]))
    for node in c_parser.CParser().parse(FOREIGN + text).ext:
        add(header, node)
    return header


def add(header: Header, node: c_ast.Node) -> None:
    if isinstance(node, c_ast.Decl) and isinstance(node.type, c_ast.FuncDecl):
        header.functions[node.name] = (spelled(node.type.type), parameters(node.type))
    elif isinstance(node, c_ast.Typedef) and isinstance(node.type, c_ast.PtrDecl):
        if isinstance(node.type.type, c_ast.FuncDecl):
            header.callbacks[node.name] = parameters(node.type.type)
    elif isinstance(node, c_ast.Typedef) and isinstance(node.type.type, c_ast.Enum):
        value, members = -1, {}
        for member in node.type.type.values.enumerators:
            text = c_generator.CGenerator().visit(member.value) if member.value else str(value + 1)
            members[member.name] = value = number(text)
        header.enums[node.name] = members
    elif isinstance(node, c_ast.Typedef) and isinstance(node.type.type, c_ast.Struct):
        members_of = node.type.type.decls or ()
        header.structs[node.name] = [(part.name, part.type) for part in members_of]


@pytest.fixture(scope="module", params=WHEELS)
def header(request: pytest.FixtureRequest) -> Header:
    return read(Path(str(distribution(request.param).locate_file(WHEELS[request.param]))))


# ---- what the C types are to a caller of 64-bit Linux

HANDLES = re.compile(
    r"nvjpeg(Handle|JpegState|JpegStream|DecodeParams|JpegDecoder|BufferPinned|BufferDevice)_t|cudaStream_t"
)
SCALARS = {"int": ctypes.c_int, "uint": ctypes.c_uint, "size_t": ctypes.c_size_t}


def expected(spelling: str, header: Header) -> Any:
    """The ctypes type that passes this C type."""
    base, stars = spelling.rstrip("*"), spelling.count("*")
    if HANDLES.fullmatch(base):
        kind: Any = ctypes.c_void_p
    elif base in ("uchar", "void"):
        kind, stars = ctypes.c_void_p, stars - 1
    elif base in STRUCTS:
        kind = STRUCTS[base]
    else:
        kind = ctypes.c_int if base in header.enums else SCALARS[base]
    for _ in range(stars):
        kind = ctypes.POINTER(kind)  # ctypes keeps one pointer type per type, so `is` would do as well
    return kind


def test_every_decode_function_is_bound_and_none_is_invented(header: Header) -> None:
    decode = {name for name in header.functions if not NOT_BOUND.fullmatch(name)}
    assert set(nvjpeg.PROTOTYPES) == decode
    assert len(decode) == 61


@pytest.mark.parametrize("name", nvjpeg.PROTOTYPES)
def test_argument_types(name: str, header: Header) -> None:
    returned, arguments = header.functions[name]
    assert returned == "nvjpegStatus_t"
    assert list(nvjpeg.PROTOTYPES[name]) == [expected(argument, header) for argument in arguments]


def test_enum_values(header: Header) -> None:
    assert set(ENUMS) == set(header.enums) - NOT_BOUND_ENUMS
    newer = SINCE_13 if header.version < (13, 1) else set()
    for name, enum in ENUMS.items():
        ours = {member.name: member.value for member in enum if member.name not in newer}
        theirs = {key: value for key, value in header.enums[name].items() if key != NOT_A_MEMBER}
        assert ours == theirs, name
        assert len(enum.__members__) == len(enum), "two names of one value"


def test_flags(header: Header) -> None:
    theirs = {name: value for name, value in header.macros.items() if not name.startswith("NVJPEG_VER_")}
    ours = {name: value for name, value in vars(nvjpeg_types).items() if name in theirs}
    assert ours == theirs
    assert len([name for name in theirs if name.startswith("NVJPEG_FLAGS_")]) == 7


def size_bytes(node: c_ast.Node) -> int:
    """Of a struct's member: pointers, size_t, and arrays of them. All are 8 bytes, so nothing is padded."""
    if isinstance(node, c_ast.ArrayDecl):
        return int(node.dim.value) * size_bytes(node.type)
    if isinstance(node, c_ast.PtrDecl):
        return 8
    (name,) = node.type.names
    assert name == "size_t" or name.startswith("t"), f"{name}: neither a size nor an allocator's function"
    return 8


def test_struct_layouts(header: Header) -> None:
    assert set(STRUCTS) == set(header.structs)
    for name, members in header.structs.items():
        layout, offset = [], 0
        for member, node in members:
            layout.append((member, offset, size_bytes(node)))
            offset += size_bytes(node)
        ours = [(key, getattr(STRUCTS[name], key)) for key, _ in STRUCTS[name]._fields_]
        assert [(key, at.offset, at.size) for key, at in ours] == layout
        assert ctypes.sizeof(STRUCTS[name]) == offset


def test_allocator_callbacks(header: Header) -> None:
    assert len(header.callbacks) == 8
    for name, arguments in header.callbacks.items():
        ours = getattr(nvjpeg_types, name)
        assert ours._restype_ is ctypes.c_int
        assert list(ours._argtypes_) == [expected(argument, header) for argument in arguments], name


def test_the_reader_sees_a_changed_header(tmp_path: Path) -> None:
    wheel = "nvidia-nvjpeg"
    text = Path(str(distribution(wheel).locate_file(WHEELS[wheel]))).read_text(encoding="utf-8")
    changed = tmp_path / "nvjpeg.h"
    changed.write_text(
        text.replace("NVJPEG_BACKEND_HARDWARE = 3", "NVJPEG_BACKEND_HARDWARE = 13").replace(
            "int batch_size,\n          int max_cpu_threads",
            "size_t batch_size,\n          int max_cpu_threads",
        ),
        encoding="utf-8",
    )
    header = read(changed)
    with pytest.raises(AssertionError):
        test_enum_values(header)
    with pytest.raises(AssertionError):
        test_argument_types("nvjpegDecodeBatchedInitialize", header)
