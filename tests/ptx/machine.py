"""A GPU that runs PTX: all threads of a launch at once, one numpy operation per instruction.

Of threads at different places, those at the lowest run first, so that they meet again where branches do. A
thread at a barrier waits for all threads of its block. Time, caches and the order in which different blocks
write to global memory are not modelled.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from tests.ptx.arithmetic import COMPARISONS, DTYPES, OPERATIONS, convert, wide_dtype
from tests.ptx.memory import Fault, GlobalMemory, SharedMemory
from tests.ptx.program import Instruction, Operand, Program, Unsupported

__all__ = ["launch"]

Array = npt.NDArray[Any]
#: operands that have another type than the instruction, by name
OTHER_TYPES = {"selp": {2: np.bool_}, "shl": {1: np.uint32}, "shr": {1: np.uint32},
               "bfi": {2: np.uint32, 3: np.uint32}}  # fmt: skip
#: the lower bits are what a register holds before it is written
GARBAGE = 0xDEADBEEFDEADBEEF
REGISTERS = {"p": np.bool_, "f": np.float32, "rs": np.uint16, "r": np.uint32, "rd": np.uint64}
#: instead of the place of a thread
WAITING, ENDED = -1, -2


def launch(
    program: Program, memory: GlobalMemory, grid: tuple[int, int, int], threads: int, arguments: list[int]
) -> int:
    """Run a kernel over a grid of blocks with `threads` threads each; return how many instructions all
    threads together have run.

    Parameters
    ----------
    arguments : list of int
        The kernel's parameters in their order; addresses are those of arrays of `memory`.

    Raises
    ------
    Fault
        If a thread does what it must not do; the message names the instruction.
    Unsupported
        If the program has an instruction that is not known here.
    """
    if len(arguments) != len(program.parameters):
        raise Fault(f"{len(arguments)} arguments for {len(program.parameters)} parameters")
    return Run(program, memory, grid, threads, arguments).run()


class Run:
    """One launch: registers of all threads, and where each thread is."""

    def __init__(
        self,
        program: Program,
        memory: GlobalMemory,
        grid: tuple[int, int, int],
        threads: int,
        arguments: list[int],
    ) -> None:
        blocks = int(np.prod(grid))
        self._program, self._memory = program, memory
        self._block = np.repeat(np.arange(blocks), threads)
        self._thread = np.tile(np.arange(threads, dtype=np.int32), blocks)
        self._shared = SharedMemory(blocks, -(-program.shared_bytes // 8) * 8)
        self._place = np.zeros(blocks * threads, np.int64)
        self._after = np.zeros_like(self._place)
        x, y, _ = grid
        special = {
            "%tid.x": self._thread, "%ntid.x": threads, "%ctaid.x": self._block % x,
            "%ctaid.y": self._block // x % y, "%ctaid.z": self._block // (x * y),
            "%nctaid.x": grid[0], "%nctaid.y": grid[1], "%nctaid.z": grid[2], "%laneid": self._thread % 32,
            "%tid.y": 0, "%tid.z": 0, "%ntid.y": 1, "%ntid.z": 1,
        }  # fmt: skip
        size = self._place.size
        self._registers: dict[str, Array] = {
            name: np.broadcast_to(np.asarray(value, np.uint32), size) for name, value in special.items()
        }
        self._arguments = dict(zip(program.parameters, arguments, strict=True))
        self._count = 0

    def run(self) -> int:
        """Run all threads to their end."""
        with np.errstate(all="ignore"):
            while True:
                ready = self._place >= 0
                if ready.any():
                    place = int(self._place[ready].min())
                    self._run_block(place, np.flatnonzero(self._place == place))
                elif (self._place == WAITING).any():
                    self._pass_barrier()
                else:
                    return self._count

    def _run_block(self, place: int, lanes: Array) -> None:
        """Run a basic block in some threads, which then are at the next one or where it branches to."""
        instructions = self._program.blocks[place]
        self._place[lanes] = place + 1
        whole = lanes.size == self._place.size
        for instruction in instructions:
            taken = lanes
            if instruction.guard:
                chosen = self._register(instruction.guard)[lanes] ^ instruction.negated
                taken = lanes[chosen]
            self._count += taken.size
            if taken.size:
                try:
                    self._step(instruction, slice(None) if whole and taken is lanes else taken, taken)
                except (Fault, ZeroDivisionError) as error:
                    raise Fault(f"{instruction.text}: {error}") from None

    def _pass_barrier(self) -> None:
        """Release the waiting threads; all of a block that have not ended must wait at the same barrier."""
        waiting = self._place == WAITING
        blocks = np.unique(self._block[waiting])
        for block in blocks.tolist():
            if np.unique(self._after[waiting & (self._block == block)]).size > 1:
                raise Fault(f"threads of block {block} wait at different barriers")
        self._shared.barrier(blocks)
        self._place[waiting] = self._after[waiting]

    def _step(self, instruction: Instruction, index: Any, lanes: Array) -> None:
        name, suffixes, operands = instruction.name, instruction.suffixes, instruction.operands
        if name == "bra":
            self._place[lanes] = self._program.labels[operands[0].name]
        elif name == "bar":
            self._after[lanes], self._place[lanes] = self._place[lanes], WAITING
        elif name in ("ret", "exit"):
            self._place[lanes] = ENDED
        elif name == "ld":
            self._write(operands[0], index, self._load(suffixes, operands[1], index, lanes))
        elif name == "st":
            values = np.broadcast_to(self._read(operands[1], DTYPES[suffixes[-1]], index), lanes.size)
            self._store(suffixes, operands[0], index, lanes, values)
        elif name == "atom" and suffixes[:2] == ("shared", "add"):
            values = np.broadcast_to(self._read(operands[2], DTYPES[suffixes[-1]], index), lanes.size)
            at = self._address(operands[1], index, lanes)
            self._write(operands[0], index, self._shared.add(self._block[lanes], at, values))
        elif name == "setp":
            self._compare(suffixes, operands, index)
        elif name == "cvt":
            source = self._read(operands[1], DTYPES[suffixes[-1]], index)
            self._write(operands[0], index, convert(source, DTYPES[suffixes[-2]], suffixes[:-2]))
        elif name == "cvta":
            self._write(operands[0], index, self._read(operands[1], np.uint64, index))
        else:
            self._compute(instruction, index)

    def _compute(self, instruction: Instruction, index: Any) -> None:
        """Run an instruction of `OPERATIONS`."""
        name, suffixes, operands = instruction.name, instruction.suffixes, instruction.operands
        known = {f"{name}.{suffix}" for suffix in suffixes} & OPERATIONS.keys()
        key = known.pop() if known else name
        dtype = DTYPES.get(suffixes[-1] if name != "prmt" else "b32")
        rest = set(suffixes) - {key.rpartition(".")[2], "rn", *DTYPES}  # numpy rounds to nearest, too
        if key not in OPERATIONS or dtype is None or rest:
            raise Unsupported(instruction.text)
        others = OTHER_TYPES.get(name, {})
        if suffixes[0] == "wide":
            others = {2: wide_dtype(dtype)}
        values = [self._read(o, others.get(k, dtype), index) for k, o in enumerate(operands[1:])]
        self._write(operands[0], index, OPERATIONS[key](*values))

    def _compare(self, suffixes: tuple[str, ...], operands: tuple[Operand, ...], index: Any) -> None:
        if len(suffixes) != 2 or len(operands) != 3:
            raise Unsupported(f"setp.{'.'.join(suffixes)}")
        a, b = (self._read(operand, DTYPES[suffixes[1]], index) for operand in operands[1:])
        self._write(operands[0], index, np.asarray(COMPARISONS[suffixes[0]](a, b)))

    def _read(self, operand: Operand, dtype: Any, index: Any) -> Array:
        """Return an operand as numbers of a type; of a wider register, the lower bits."""
        if not operand.name:
            if dtype == np.bool_:
                return np.asarray(operand.number != 0)
            if np.dtype(dtype).kind == "f":
                return np.asarray(operand.number, dtype)
            bits = 8 * np.dtype(dtype).itemsize
            return np.asarray(int(operand.number) & (1 << bits) - 1, f"u{bits // 8}").view(dtype)
        if operand.name in self._program.shared:
            return np.asarray(self._program.shared[operand.name][0], dtype)
        values = self._register(operand.name)[index]
        if values.dtype.itemsize > np.dtype(dtype).itemsize:
            values = values.astype(f"u{np.dtype(dtype).itemsize}")
        return values.view(dtype)

    def _write(self, operand: Operand, index: Any, values: Array) -> None:
        """Write to a register; to a wider one, extended by the sign of the type that was computed."""
        register = self._register(operand.name)
        if values.dtype.kind in "iu" and values.dtype.itemsize < register.dtype.itemsize:
            values = values.astype(f"{values.dtype.kind}{register.dtype.itemsize}")
        if values.dtype.itemsize > register.dtype.itemsize:
            raise Unsupported(f"{operand.name} is too small for {values.dtype}")
        register[index] = values.view(register.dtype)

    def _register(self, name: str) -> Array:
        if name not in self._registers:
            kind = np.dtype(REGISTERS[name.strip("%0123456789")])
            garbage = GARBAGE & (1 << 8 * kind.itemsize) - 1
            register = np.full(self._place.size, garbage, f"u{kind.itemsize}")
            self._registers[name] = register.view(kind) if kind != np.bool_ else register > 0
        return self._registers[name]

    def _load(self, suffixes: tuple[str, ...], operand: Operand, index: Any, lanes: Array) -> Array:
        space, dtype = suffixes[0], DTYPES[suffixes[-1]]
        if space == "param":
            size = np.dtype(dtype).itemsize
            bits = self._arguments[operand.name] & (1 << 8 * size) - 1
            return np.full(lanes.size, bits, f"u{size}").view(dtype)
        at = self._address(operand, index, lanes)
        if space == "shared":
            return self._shared.load(self._block[lanes], self._thread[lanes], at, dtype)
        if space != "global" or len(suffixes) != 2:
            raise Unsupported(f"ld.{'.'.join(suffixes)}")
        return self._memory.load(at, dtype)

    def _store(
        self, suffixes: tuple[str, ...], operand: Operand, index: Any, lanes: Array, values: Array
    ) -> None:
        at = self._address(operand, index, lanes)
        if suffixes[0] == "shared":
            self._shared.store(self._block[lanes], self._thread[lanes], at, values)
        elif suffixes[0] == "global" and len(suffixes) == 2:
            self._memory.store(at, values)
        else:
            raise Unsupported(f"st.{'.'.join(suffixes)}")

    def _address(self, operand: Operand, index: Any, lanes: Array) -> npt.NDArray[np.int64]:
        base = self._read(Operand(operand.name), np.int64, index)
        return np.broadcast_to(base + np.int64(operand.number), lanes.size)
