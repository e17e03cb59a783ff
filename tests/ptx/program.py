"""PTX as text becomes basic blocks of instructions whose operands are parsed.

Only what a compiler writes is understood: one kernel per module, virtual registers, labels, shared memory of
a fixed size. Anything else raises `Unsupported` with the line.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

__all__ = ["Instruction", "Operand", "Program", "Unsupported", "parse"]

ENTRY = re.compile(r"\.entry\s+(\w+)\s*\((.*?)\)(.*?)\{(.*)\}", re.DOTALL)
PARAMETER = re.compile(r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(\w+)")
SHARED = re.compile(r"\.shared\s+\.align\s+(\d+)\s+\.b8\s+(\w+)\[(\d+)\];")
REGISTERS = re.compile(r"\.reg\s+\.(\w+)\s+(%\w+)<\d+>;")
PRAGMA = re.compile(r"\.pragma\s+\"\w+\";")
STATEMENT = re.compile(r"(?:@(!?)(%\w+)\s+)?([a-z][\w.]*)\s*(.*)", re.DOTALL)
ADDRESS = re.compile(r"\[\s*([%\w]+)\s*(?:\+\s*(-?\d+))?\s*\]")
#: what a basic block ends with
ENDS = ("bra", "bar", "ret", "exit")


class Unsupported(Exception):
    """The program has something that the machine does not know."""


@dataclass(frozen=True)
class Operand:
    """A register or symbol (`name`), a number, or an address: `name` plus an offset."""

    name: str = ""
    number: int | float = 0
    is_address: bool = False


@dataclass(frozen=True)
class Instruction:
    """One instruction: its name without types, all its suffixes, its operands and its guard."""

    name: str
    suffixes: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: str
    negated: bool
    text: str


@dataclass
class Program:
    """A kernel: its basic blocks in the order of the text, and what it declares."""

    name: str
    blocks: list[list[Instruction]]
    labels: dict[str, int]
    parameters: dict[str, str]
    shared: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def shared_bytes(self) -> int:
        """Size of the shared memory of a block of threads."""
        return max((begin + size for begin, size in self.shared.values()), default=0)


def parse(ptx: str) -> Program:
    """Return the one kernel of a module."""
    ptx = re.sub(r"//[^\n]*", "", ptx)
    entries = ENTRY.findall(ptx)
    if len(entries) != 1:
        raise Unsupported(f"one kernel is needed, not {len(entries)}")
    name, parameters, _, code = entries[0]
    program = Program(name, [[]], {}, {name: kind for kind, name in PARAMETER.findall(parameters)})
    end = 0
    for alignment, symbol, size in SHARED.findall(ptx):
        begin = -(-end // int(alignment)) * int(alignment)
        program.shared[symbol], end = (begin, int(size)), begin + int(size)
    for declaration in (REGISTERS, SHARED, PRAGMA):
        code = declaration.sub("", code)
    for statement in re.findall(r"[^;:{}]+[;:]", code):
        add_statement(program, statement.strip())
    return program


def add_statement(program: Program, statement: str) -> None:
    """Add a label or an instruction to the last basic block, or begin the next one."""
    blocks = program.blocks
    if statement.endswith(":"):
        if blocks[-1]:
            blocks.append([])
        program.labels[statement[:-1].strip()] = len(blocks) - 1
        return
    instruction = parse_instruction(statement[:-1])
    blocks[-1].append(instruction)
    if instruction.name in ENDS:
        blocks.append([])


def parse_instruction(text: str) -> Instruction:
    """Return an instruction without its semicolon."""
    found = STATEMENT.fullmatch(text.strip())
    if found is None:
        raise Unsupported(text)
    negated, guard, mnemonic, rest = found.groups()
    name, *suffixes = mnemonic.split(".")
    operands = tuple(map(parse_operand, filter(None, (part.strip() for part in rest.split(",")))))
    return Instruction(name, tuple(suffixes), operands, guard or "", bool(negated), text.strip())


def parse_operand(text: str) -> Operand:
    """Return a register, a symbol, a number or an address."""
    address = ADDRESS.fullmatch(text)
    if address:
        return Operand(address[1], int(address[2] or 0), is_address=True)
    if re.fullmatch(r"0[fF][0-9a-fA-F]{8}", text):
        return Operand(number=struct.unpack(">f", bytes.fromhex(text[2:]))[0])
    if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)", text):
        return Operand(number=int(text, 0))
    if re.fullmatch(r"[%$\w.]+", text):
        return Operand(name=text)
    raise Unsupported(text)
