"""The PTX machine: what it computes beside ptxas's own constants and numpy, and what it refuses."""

from __future__ import annotations

import math
import struct
import subprocess
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from tests.kernels.test_bodies_on_cuda import find_ptxas
from tests.ptx.machine import launch
from tests.ptx.memory import Fault, GlobalMemory, address
from tests.ptx.program import Unsupported, parse

HEADER = ".version 8.0\n.target sm_75\n.address_size 64\n"
REGISTERS = ".reg .pred %p<9>; .reg .b16 %rs<9>; .reg .b32 %r<19>; .reg .b64 %rd<9>; .reg .f32 %f<9>;\n"

#: what is left in %r9 by what ptxas computes itself, as it does for whatever it knows when it compiles
FOLDED = {
    "add": "add.s32 %r9, 2000000000, 2000000011;",
    "sub": "sub.s32 %r9, -2000000000, 2000000011;",
    "mul.lo": "mul.lo.s32 %r9, 123456789, -987654321;",
    "mul.hi signed": "mul.hi.s32 %r9, 1234567890, -987654321;",
    "mul.hi": "mul.hi.u32 %r9, 3123456789, 3987654321;",
    "mul.wide": "mul.wide.s32 %rd2, 123456789, -98765; shr.s64 %rd3, %rd2, 13; cvt.u32.u64 %r9, %rd3;",
    "mad.lo": "mad.lo.s32 %r9, 123456789, -987654321, 192837465;",
    "shl beyond": "mov.u32 %r1, 32; shl.b32 %r2, 123456789, %r1; xor.b32 %r9, %r2, 987654321;",
    "shr": "shr.s32 %r9, -1999999999, 3;",
    "shr beyond": "mov.u32 %r1, 77; shr.s32 %r2, -1999999999, %r1; xor.b32 %r9, %r2, 987654321;",
    "min": "min.s32 %r9, -1999999999, 3;",
    "max": "max.u32 %r9, -1999999999, 3;",
    "bfi": "bfi.b32 %r9, 0x12345678, 0x9abcdef1, 5, 13;",
    "selp": "setp.lt.u32 %p1, -5, 3; selp.b32 %r9, 123456789, 987654321, %p1;",
    "sign": "mov.u32 %r1, 0x89abcdef; cvt.s64.s32 %rd2, %r1; shr.u64 %rd3, %rd2, 5; cvt.u32.u64 %r9, %rd3;",
    "add.f32": "mov.f32 %f1, 0f3DCCCCCD; add.f32 %f2, %f1, 0f4B800001; mov.b32 %r9, %f2;",
    "mul.f32": "mov.f32 %f1, 0f3DCCCCCD; mul.f32 %f2, %f1, 0f3F9D70A4; mov.b32 %r9, %f2;",
    "rcp": "mov.f32 %f1, 0f40490FDB; rcp.rn.f32 %f2, %f1; mov.b32 %r9, %f2;",
    "cvt to float": "mov.u32 %r1, 1999999999; cvt.rn.f32.s32 %f1, %r1; mov.b32 %r9, %f1;",
    "cvt down": "mov.f32 %f1, 0fCB19F90F; cvt.rzi.s32.f32 %r9, %f1;",
    "cvt beyond": "mov.f32 %f1, 0f7F000000; cvt.rzi.s32.f32 %r9, %f1;",
    "neu": "mov.f32 %f1, 0f7FC00000; setp.neu.f32 %p1, %f1, %f1; selp.b32 %r9, 1234567, 7654321, %p1;",
    "eq": "mov.f32 %f1, 0f7FC00000; setp.eq.f32 %p1, %f1, %f1; selp.b32 %r9, 1234567, 7654321, %p1;",
}  # fmt: skip


def kernel(body: str, shared: str = "") -> str:
    """PTX whose one parameter is in %rd1, and the thread's number in %r0."""
    begin = "ld.param.u64 %rd1, [out]; mov.u32 %r0, %tid.x;\n"
    return f"{HEADER}{shared}\n.visible .entry k(.param .u64 out)\n{{\n{REGISTERS}{begin}{body}\nret;\n}}\n"


def run(
    body: str, *, threads: int = 1, blocks: int = 1, size: int = 4, shared: str = ""
) -> npt.NDArray[np.uint8]:
    memory = GlobalMemory()
    out = memory.allocate(size)
    launch(parse(kernel(body, shared)), memory, (blocks, 1, 1), threads, [address(out)])
    return out


@pytest.mark.parametrize("name", FOLDED)
def test_it_computes_what_ptxas_computes(name: str, tmp_path: Path) -> None:
    body = FOLDED[name] + "\nst.global.u32 [%rd1], %r9;"
    found = int(run(body).view(np.uint32)[0])
    (tmp_path / "k.ptx").write_text(kernel(body))
    command = [find_ptxas(), "-arch=sm_75", str(tmp_path / "k.ptx"), "-o", str(tmp_path / "k.cubin")]
    subprocess.run(command, check=True)
    code = (tmp_path / "k.cubin").read_bytes()
    assert struct.pack("<I", found) in code
    assert struct.pack("<I", found ^ 0x01010101) not in code


def test_instructions_on_packed_bytes() -> None:
    """By the formulas of NVIDIA's manual, in Python's whole numbers."""
    rng = np.random.default_rng(0)
    for a, b, c in rng.integers(0, 1 << 32, (50, 3)).tolist():
        both = b << 32 | a

        def computed(instruction: str, a: int = a, b: int = b, c: int = c) -> int:
            numbers = f"mov.u32 %r1, {a}; mov.u32 %r2, {b}; mov.u32 %r3, {c};"
            body = f"{numbers} {instruction} %r4, %r1, %r2, %r3; st.global.u32 [%rd1], %r4;"
            return int(run(body).view(np.uint32)[0])

        chosen = [both >> 8 * (c >> 4 * k & 7) & 255 for k in range(4)]
        signs = [255 * (byte >> 7) if c >> 4 * k & 8 else byte for k, byte in enumerate(chosen)]
        assert computed("prmt.b32") == sum(byte << 8 * k for k, byte in enumerate(signs))
        assert computed("prmt.b32.f4e") == both >> 8 * (c & 3) & 0xFFFFFFFF
        for half, first in (("lo", 0), ("hi", 16)):
            low, high = b >> first & 255, b >> first + 8 & 255
            total = (c + (a & 65535) * low + (a >> 16) * high) % (1 << 32)
            assert computed(f"dp2a.{half}.u32.u32") == total


@pytest.mark.parametrize(("a", "b"), [(7, 2), (-7, 2), (7, -2), (-7, -2), (-8, 2), (-1, 5)])
def test_divisions_round_towards_zero(a: int, b: int) -> None:
    """As C's do."""
    for kind in ("s32", "s64"):
        register = "%r" if kind == "s32" else "%rd"
        numbers = f"mov.{kind} {register}2, {a}; mov.{kind} {register}3, {b};"
        both = f"{register}2, {register}3;"
        operations = f"div.{kind} {register}4, {both} rem.{kind} {register}5, {both}"
        stores = f"st.global.{kind} [%rd1], {register}4; st.global.{kind} [%rd1+8], {register}5;"
        found = run(numbers + operations + stores, size=16).view(f"i{int(kind[1:]) // 8}")
        assert [found[0], found[found.size // 2]] == [math.trunc(a / b), math.fmod(a, b)]


def test_a_product_and_a_sum_are_rounded_once() -> None:
    rng = np.random.default_rng(0)
    a, b, c = rng.standard_normal((3, 64)).astype(np.float32)
    memory = GlobalMemory()
    numbers, out = memory.allocate(64 * 12), memory.allocate(64 * 4)
    numbers.view(np.float32)[:] = np.stack([a, b, c], axis=1).reshape(-1)
    body = f"""mul.wide.u32 %rd2, %r0, 12; add.s64 %rd3, %rd2, {address(numbers)};
    ld.global.f32 %f1, [%rd3]; ld.global.f32 %f2, [%rd3+4]; ld.global.f32 %f3, [%rd3+8];
    fma.rn.f32 %f4, %f1, %f2, %f3; mul.wide.u32 %rd4, %r0, 4; add.s64 %rd5, %rd1, %rd4;
    st.global.f32 [%rd5], %f4;"""
    launch(parse(kernel(body)), memory, (1, 1, 1), 64, [address(out)])
    exact = a.astype(np.longdouble) * b + c
    assert np.array_equal(out.view(np.float32), exact.astype(np.float32))
    assert not np.array_equal(out.view(np.float32), a * b + c)


COLLATZ = """mov.u32 %r1, %r0; add.s32 %r1, %r1, 1; mov.u32 %r2, 0;
$L_loop: setp.eq.u32 %p1, %r1, 1; @%p1 bra $L_done;
and.b32 %r3, %r1, 1; setp.eq.u32 %p2, %r3, 0; @%p2 bra $L_even;
mad.lo.s32 %r1, %r1, 3, 1; bra.uni $L_next;
$L_even: shr.u32 %r1, %r1, 1;
$L_next: add.s32 %r2, %r2, 1; bra $L_loop;
$L_done: mul.wide.u32 %rd2, %r0, 4; add.s64 %rd3, %rd1, %rd2; st.global.u32 [%rd3], %r2;"""


def test_threads_go_their_own_ways() -> None:
    def steps(n: int) -> int:
        return 0 if n == 1 else 1 + steps(3 * n + 1 if n % 2 else n // 2)

    found = run(COLLATZ, threads=100, size=400).view(np.uint32)
    assert found.tolist() == [steps(n + 1) for n in range(100)]


SHARED = ".shared .align 4 .b8 room[256];"
#: each thread writes its number to shared memory, and then reads its neighbour's
EXCHANGE = """mov.u64 %rd2, room; mul.wide.u32 %rd3, %r0, 4; add.s64 %rd4, %rd2, %rd3;
st.shared.u32 [%rd4], %r0; BARRIER
xor.b32 %r1, %r0, 1; mul.wide.u32 %rd5, %r1, 4; add.s64 %rd6, %rd2, %rd5; ld.shared.u32 %r2, [%rd6];
mov.u32 %r3, %ctaid.x; mad.lo.s32 %r4, %r3, 64, %r0; mul.wide.u32 %rd7, %r4, 4; add.s64 %rd8, %rd1, %rd7;
st.global.u32 [%rd8], %r2;"""


def test_blocks_share_memory_across_a_barrier() -> None:
    body = EXCHANGE.replace("BARRIER", "bar.sync 0;")
    found = run(body, threads=64, blocks=3, size=3 * 256, shared=SHARED).view(np.uint32)
    assert found.reshape(3, 64).tolist() == [[n ^ 1 for n in range(64)]] * 3


ADD = """mov.u64 %rd2, room; setp.ne.u32 %p1, %r0, 0; @%p1 bra $L_add; st.shared.u32 [%rd2], 5;
$L_add: bar.sync 0; atom.shared.add.u32 %r1, [%rd2], 3; mul.wide.u32 %rd3, %r0, 4; add.s64 %rd4, %rd1, %rd3;
st.global.u32 [%rd4], %r1;"""


def test_atomic_sums() -> None:
    found = run(ADD, threads=32, size=128, shared=SHARED).view(np.uint32)
    assert found.tolist() == [5 + 3 * n for n in range(32)]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("st.global.u32 [%rd1+4], 1;", "out of bounds: 4 bytes at byte 4 of 4"),
        ("ld.global.u8 %r1, [%rd1+-1];", "out of bounds"),
        ("st.global.u16 [%rd1+1], 1;", "misaligned"),
        (EXCHANGE.replace("BARRIER", ""), "race: byte 4 of shared memory is read while another"),
        ("mov.u64 %rd2, room; st.shared.u32 [%rd2], %r0;", "is written by two threads at once"),
        ("mov.u64 %rd2, room; ld.shared.u32 %r1, [%rd2];", "nobody wrote"),
        ("mov.u64 %rd2, room; st.shared.u32 [%rd2+256], %r0;", "out of bounds"),
        (ADD.replace("bar.sync 0;", ""), "added to"),
        (
            "setp.eq.u32 %p1, %r0, 0; @%p1 bra $L_a; bar.sync 0; ret;\n$L_a: bar.sync 0;",
            "wait at different barriers",
        ),
        ("rem.s32 %r1, 1, 0;", "by 0"),
    ],
)
def test_faults(body: str, words: str) -> None:
    with pytest.raises(Fault, match=words):
        run(body, threads=2, shared=SHARED)


@pytest.mark.parametrize(
    "body",
    [
        "popc.b32 %r1, %r0;",
        "add.sat.s32 %r1, %r0, 1;",
        "ld.const.u32 %r1, [%rd1];",
        "cvt.rn.f32.f16 %f1, %rs1;",
    ],
)
def test_what_is_not_known_is_refused(body: str) -> None:
    with pytest.raises((Unsupported, KeyError)):
        run(body)


def test_what_is_behind_a_barrier_is_no_race() -> None:
    body = EXCHANGE.replace("BARRIER", "bar.sync 0;")
    run(body + "bar.sync 0; st.shared.u32 [%rd6], %r2;", threads=64, size=256, shared=SHARED)
    with pytest.raises(Fault, match="race"):
        run(body + "st.shared.u32 [%rd4], %r2;", threads=64, size=256, shared=SHARED)


def test_an_array_of_another_size_may_take_the_place_of_one() -> None:
    memory, bytes_ = GlobalMemory(), np.zeros(8, np.uint8)
    for part in (bytes_[:4], bytes_):
        memory.take([part])
        memory.store(address(part) + np.arange(part.size), np.ones(part.size, np.uint8))
        assert memory.writes[address(part)].tolist() == [1] * part.size
