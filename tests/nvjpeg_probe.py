"""What an nvJPEG answers without decoding anything: headers, support queries, parameters, buffers.

The same questions are put to the real library and to the fake one, and the answers compared. The real one
gets a block of zeros for its handle, since making one needs a GPU: undocumented, so only here, and in a
process of its own:

    python tests/nvjpeg_probe.py libnvjpeg.so folder-of-files      (prints JSON)
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

from ffcv_gpu.native import nvjpeg, nvjpeg_types

ROIS = (None, (3, 5, 9, 9), (16, 16, 16, 16), (40, 30, 20, 20), (100, 100, 5, 5))
UNTOUCHED = -9


def made(function: Any, *arguments: Any) -> ctypes.c_void_p:
    out = ctypes.c_void_p()
    status = function(*arguments, ctypes.byref(out))
    assert status == 0, status
    return out


def asked(function: Any, *arguments: Any, count: int = 1) -> list[int]:
    """Status, and the values written."""
    values = [ctypes.c_uint(0) for _ in range(count)]
    pointers = [
        ctypes.cast(ctypes.pointer(value), kind)
        for value, kind in zip(values, function.argtypes[-count:], strict=True)
    ]
    return [function(*arguments, *pointers), *(ctypes.c_int(value.value).value for value in values)]


def headers(library: Any, handle: Any, data: bytes) -> dict[str, Any]:
    """What is said of one file."""
    count, css = ctypes.c_int(UNTOUCHED), ctypes.c_int(UNTOUCHED)
    widths, heights = (ctypes.c_int * 4)(*[UNTOUCHED] * 4), (ctypes.c_int * 4)(*[UNTOUCHED] * 4)
    status = library.nvjpegGetImageInfo(
        handle, data, len(data), ctypes.byref(count), ctypes.byref(css), widths, heights
    )
    stream = made(library.nvjpegJpegStreamCreate, handle)
    said: dict[str, Any] = {"info": [status, count.value, css.value, *widths, *heights]}
    said["header"] = library.nvjpegJpegStreamParseHeader(handle, data, len(data), stream)
    # What the getters say after a failure is left over from before, or is not; it differs by version.
    if said["header"] == 0:
        said["after header"] = getters(library, stream)
    said["parse"] = library.nvjpegJpegStreamParse(handle, data, len(data), 0, 0, stream)
    if said["parse"] == 0:
        said["after parse"] = getters(library, stream)
        said["supported"] = support(library, handle, stream)
    return said


def getters(library: Any, stream: Any) -> list[Any]:
    return [
        asked(library.nvjpegJpegStreamGetFrameDimensions, stream, count=2),
        asked(library.nvjpegJpegStreamGetComponentsNum, stream),
        asked(library.nvjpegJpegStreamGetJpegEncoding, stream),
        asked(library.nvjpegJpegStreamGetChromaSubsampling, stream),
        asked(library.nvjpegJpegStreamGetExifOrientation, stream),
        asked(library.nvjpegJpegStreamGetSamplePrecision, stream),
        *(asked(library.nvjpegJpegStreamGetComponentDimensions, stream, k, count=2) for k in range(5)),
    ]


def support(library: Any, handle: Any, stream: Any) -> dict[str, list[int]]:
    """By backend, CMYK, rectangle: the answer for each output format, scale 1/2 and EXIF 6 at the end."""
    said = {}
    for backend in (0, 1, 2):
        decoder = made(library.nvjpegDecoderCreate, handle, backend)
        for cmyk in (0, 1):
            for roi in ROIS:
                params = made(library.nvjpegDecodeParamsCreate, handle)
                library.nvjpegDecodeParamsSetAllowCMYK(params, cmyk)
                if roi is not None:
                    library.nvjpegDecodeParamsSetROI(params, *roi)
                answers = []
                for output in range(10):  # what 12.4 and 13 share
                    library.nvjpegDecodeParamsSetOutputFormat(params, output)
                    answers += asked(library.nvjpegDecoderJpegSupported, decoder, stream, params)
                library.nvjpegDecodeParamsSetOutputFormat(params, 5)
                library.nvjpegDecodeParamsSetExifOrientation(params, 6)
                answers += asked(library.nvjpegDecoderJpegSupported, decoder, stream, params)
                library.nvjpegDecodeParamsSetScaleFactor(params, 1)
                answers += asked(library.nvjpegDecoderJpegSupported, decoder, stream, params)
                said[f"{backend} {cmyk} {roi}"] = answers
    return said


def setters(library: Any, handle: Any) -> list[Any]:
    """Statuses of parameters in and out of range, of null pointers, of decoders."""
    params, stream = (
        made(make, handle) for make in (library.nvjpegDecodeParamsCreate, library.nvjpegJpegStreamCreate)
    )
    decoder = made(library.nvjpegDecoderCreate, handle, 1)
    rois = [(0, 0, -1, -1), (-1, 0, 4, 4), (0, -1, 4, 4), (0, 0, 0, 0), (3, 3, -5, 4), (0, 0, -1, 4)]
    rois += [(-1, -1, -1, -1), (3, 3, -1, -1), (0, 0, 4, -2), (5, 5, 0, 0)]
    info = (ctypes.c_int * 4)()
    return [
        [library.nvjpegDecodeParamsSetROI(params, *roi) for roi in rois],
        [library.nvjpegDecodeParamsSetScaleFactor(params, value) for value in range(-1, 6)],
        [library.nvjpegDecodeParamsSetExifOrientation(params, value) for value in range(-1, 11)],
        [library.nvjpegDecodeParamsSetAllowCMYK(params, value) for value in range(-1, 3)],
        [library.nvjpegDecodeParamsSetOutputFormat(params, value) for value in range(-1, 13)],
        [
            library.nvjpegDecoderCreate(handle, backend, ctypes.byref(ctypes.c_void_p()))
            for backend in range(9)
        ],
        [
            library.nvjpegJpegStreamParse(handle, None, 5, 0, 0, stream),
            library.nvjpegJpegStreamParse(handle, b"abc", 0, 0, 0, stream),
            library.nvjpegJpegStreamParse(None, b"abc", 3, 0, 0, stream),
            library.nvjpegJpegStreamParse(handle, b"abc", 3, 0, 0, None),
            library.nvjpegJpegStreamGetFrameDimensions(stream, None, None),
            library.nvjpegGetImageInfo(handle, None, 3, info, info, info, info),
            library.nvjpegDecoderJpegSupported(decoder, stream, None, info),
            library.nvjpegDecodeParamsSetROI(None, 0, 0, 1, 1),
            library.nvjpegBufferPinnedCreateV2(handle, None, ctypes.byref(ctypes.c_void_p())),
            library.nvjpegBufferDeviceCreateV2(handle, None, ctypes.byref(ctypes.c_void_p())),
            library.nvjpegCreateExV2(1, None, None, 0, ctypes.byref(ctypes.c_void_p())),
        ],
    ]


def buffers(library: Any, handle: Any) -> list[Any]:
    """How a pinned buffer grows, with padding 77 and an allocator that can refuse."""
    blocks: dict[int, Any] = {}
    log: list[Any] = []
    refuse: list[int] = []

    @nvjpeg_types.tPinnedMallocV2
    def malloc(context: int, out: Any, size: int, stream: int) -> int:
        log.append(["malloc", context, size, stream])
        if refuse:
            return 2
        block = ctypes.create_string_buffer(size)
        out[0] = ctypes.addressof(block)
        blocks[out[0]] = block
        return 0

    @nvjpeg_types.tPinnedFreeV2
    def free(context: int, address: int, size: int, stream: int) -> int:
        log.append(["free", context, len(blocks.pop(address)), size, stream])
        return 0

    library.nvjpegSetPinnedMemoryPadding(77, handle)
    given = nvjpeg_types.nvjpegPinnedAllocatorV2_t(
        ctypes.cast(malloc, ctypes.c_void_p), ctypes.cast(free, ctypes.c_void_p), 0x777
    )
    buffer = made(library.nvjpegBufferPinnedCreateV2, handle, ctypes.byref(given))
    size, address = ctypes.c_size_t(), ctypes.c_void_p()
    for wanted in (None, 1000, 500, 3000, 0, 1 << 20, 100):
        if wanted is not None:
            refuse[:] = [1] if wanted == 1 << 20 else []
            log.append(["resize", wanted, library.nvjpegBufferPinnedResize(buffer, wanted, 0x1230)])
        status = library.nvjpegBufferPinnedRetrieve(buffer, ctypes.byref(size), ctypes.byref(address))
        # With size 0 the pointer may be that of memory already freed.
        log.append(["is", status, size.value, address.value in blocks if size.value else None])
    return log


def main(path: str, folder: str) -> None:
    library = nvjpeg.bind(ctypes.CDLL(path))
    handle = ctypes.cast(ctypes.create_string_buffer(65536), ctypes.c_void_p)
    said: dict[str, Any] = {"setters": setters(library, handle), "buffers": buffers(library, handle)}
    for file in sorted(Path(folder).iterdir()):
        said[file.name] = headers(library, handle, file.read_bytes())
    print(json.dumps(said))


if __name__ == "__main__":
    main(*sys.argv[1:])
