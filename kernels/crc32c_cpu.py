"""CRC32C of many payloads in one call, without the GIL, using the x86 instruction of SSE 4.2.

As fast as google-crc32c on large payloads (110 kB: 4 microseconds) and twice as fast on small ones; and that
library holds the GIL, so a loader's threads would check one after the other. The instruction accepts 8 bytes
per cycle and has a latency of three cycles: hence three streams, whose sums are then combined.
"""

from __future__ import annotations

import numpy as np
from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from ffcv_gpu.kernels._numba import body, entry, loop

__all__ = ["USABLE", "checksums", "copy_and_sum"]

#: whether this machine has the instruction and numba may use it
USABLE = bool(
    binding.get_host_cpu_features().get("sse4.2", False)
    and not (config.CPU_NAME or config.CPU_FEATURES or config.DISABLE_JIT)
)

#: bytes per stream of three, while that much is left; the shorter size handles what the longer leaves
LONG, SHORT = 4096, 256
POLYNOMIAL = 0x82F63B78  # Castagnoli's, lowest bit first
ALL_ONES = np.uint64(0xFFFFFFFF)
BYTE, EIGHT, SIXTEEN, THREE_BYTES = np.uint64(255), np.uint64(8), np.uint64(16), np.uint64(24)


def zeros_table(count):
    """Return uint32 (4, 256): what each byte of a sum becomes after `count` zeros, a power of two."""
    column = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(8):
        column = (column >> 1) ^ np.where(column & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    for _ in range(count.bit_length() - 1):
        column = times(column, column)
    values = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32)[:, None])
    return times(column, values)


def times(column, values):
    """Return the products of a bit matrix, given by its columns, and bit vectors."""
    bits = values[..., None] >> np.arange(32, dtype=np.uint32) & 1
    return np.bitwise_xor.reduce(np.where(bits, column, np.uint32(0)), axis=-1)


AFTER_LONG, AFTER_SHORT = zeros_table(LONG), zeros_table(SHORT)


def instruction(name, bits_in, bits_out):
    """Return a function of a sum and the next bytes that loops can call; numba does not provide one."""

    def generate(_, builder, __, arguments):
        kind = ir.FunctionType(ir.IntType(bits_out), [ir.IntType(bits_out), ir.IntType(bits_in)])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)

    result, value = getattr(types, f"uint{bits_out}"), getattr(types, f"uint{bits_in}")

    @intrinsic
    def step(_, crc, following):
        return result(result, value), generate

    return step


add_word = instruction("llvm.x86.sse42.crc32.64.64", 64, 64)
add_byte = instruction("llvm.x86.sse42.crc32.32.8", 8, 32)


@body
def moved(table, crc):
    """Return the sum after the number of zeros that `table` was built for."""
    low = table[0, crc & BYTE] ^ table[1, (crc >> EIGHT) & BYTE]
    return np.uint64(low ^ table[2, (crc >> SIXTEEN) & BYTE] ^ table[3, crc >> THREE_BYTES])


@loop
def add_blocks(words, crc, table, size):
    """Return the sum after all whole blocks of three times `size` words, and the number of words used."""
    at = 0
    while at + 3 * size <= words.size:
        a, b, c = crc, np.uint64(0), np.uint64(0)
        first, second = words[at : at + size], words[at + size : at + 2 * size]
        third = words[at + 2 * size : at + 3 * size]
        for k in range(0, size, 4):
            # Unsigned: a signed index could count from the end, and checking that halves the speed.
            for step in range(4):
                i = np.uint64(k + step)
                a, b, c = add_word(a, first[i]), add_word(b, second[i]), add_word(c, third[i])
        crc = moved(table, moved(table, a) ^ b) ^ c
        at += 3 * size
    return crc, at


@loop
def crc_of(payload, skew):
    """Return the CRC32C of `payload`, whose first byte lies `skew` bytes after a multiple of 8."""
    head = min((8 - skew) & 7, payload.size)
    crc = np.uint32(ALL_ONES)
    for i in range(head):
        crc = add_byte(crc, payload[i])
    tail = head + (payload.size - head) // 8 * 8
    words, long = payload[head:tail].view(np.uint64), np.uint64(crc)
    long, used = add_blocks(words, long, AFTER_LONG, LONG // 8)
    words = words[used:]
    long, used = add_blocks(words, long, AFTER_SHORT, SHORT // 8)
    for i in range(used, words.size):
        long = add_word(long, words[i])
    crc = np.uint32(long)
    for i in range(tail, payload.size):
        crc = add_byte(crc, payload[i])
    return ~crc


@entry
def sum_payloads(stored, skew, offsets, lengths, sums):
    """Write the CRC32C of each payload to `sums`; `skew` is that of the first byte of `stored`."""
    for n in range(offsets.size):
        begin, length = offsets[n], lengths[n]
        if begin < 0 or length < 0 or begin + length > stored.size:
            raise ValueError("checksums: a payload lies outside its memory")
        sums[n] = crc_of(stored[begin : begin + length], (skew + begin) & 7)


def checksums(stored, offsets, lengths):
    """Return the CRC32C of each payload, uint32 (N,). Call it only if `USABLE`.

    Parameters
    ----------
    stored : uint8 (bytes,), C-contiguous
    offsets, lengths : int64 (N,)
        Bytes of `stored`.

    Raises
    ------
    ValueError
        If a payload does not lie in `stored`.
    """
    memory = stored.view()
    memory.flags.writeable = False  # with copies of the numbers, one compiled specialisation is enough
    sums = np.empty(len(offsets), np.uint32)
    skew = memory.__array_interface__["data"][0] % 8
    sum_payloads(memory, skew, np.array(offsets, np.int64), np.array(lengths, np.int64), sums)
    return sums


@entry
def copy_ranges_and_sum(stored, offsets, lengths, out, skew, sums):
    """Do the work of `copy_and_sum`; `skew` is that of the first byte of `out`."""
    at = 0
    for n in range(offsets.size):
        begin, length = offsets[n], lengths[n]
        if begin < 0 or length < 0 or begin + length > stored.size or at + length > out.size:
            raise ValueError("copy_and_sum: a range does not fit")
        source, target = stored[begin : begin + length], out[at : at + length]
        for i in range(length):
            target[i] = source[i]
        sums[n] = crc_of(target, (skew + at) & 7)
        at += length


def copy_and_sum(stored, offsets, lengths, out):
    """Copy ranges of `stored` into `out`, concatenated; return the CRC32C of each copy, uint32 (N,).

    A copy is summed while the CPU's cache holds it: for photographs of 110 kB, 75 at a time, both take 19
    microseconds beside other work, and 30 if all are copied first; 15 either way on idle cores (measured).
    Call it only if `USABLE`.

    Parameters
    ----------
    stored : uint8 (bytes,), C-contiguous
    offsets, lengths : int64 (N,)
    out : uint8 (sum of lengths,), C-contiguous

    Raises
    ------
    ValueError
        If a range lies outside `stored` or `out` is too small; the ranges before it are copied.
    """
    memory = stored.view()
    memory.flags.writeable = False  # as in `checksums`
    sums = np.empty(len(offsets), np.uint32)
    skew = out.__array_interface__["data"][0] % 8
    copy_ranges_and_sum(memory, np.array(offsets, np.int64), np.array(lengths, np.int64), out, skew, sums)
    return sums
