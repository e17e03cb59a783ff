"""ctypes bindings of nvJPEG's decoding functions, all of them under their own names, and `check`.

This module has no policy: `ffcv_gpu.native.nvjpeg_library` chooses the library to open, and a layer above
chooses the call for each image. Several functions crash on unexpected arguments
(``nvjpegDecodeBatchedSupported`` with a handle of another kind, ``nvjpegDecodeBatched`` before
``nvjpegDecodeBatchedInitialize``): callers must prevent that.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from typing import Any

from ffcv_gpu.errors import NvjpegError
from ffcv_gpu.native.nvjpeg_types import (
    libraryPropertyType,
    nvjpegDevAllocator_t,
    nvjpegDevAllocatorV2_t,
    nvjpegImage_t,
    nvjpegPinnedAllocator_t,
    nvjpegPinnedAllocatorV2_t,
    nvjpegStatus_t,
)

__all__ = ["PROTOTYPES", "bind", "check", "cudart_version", "version"]

_P = ctypes.POINTER
_INT, _UINT, _SIZE = ctypes.c_int, ctypes.c_uint, ctypes.c_size_t
#: bytes of a bitstream, an opaque handle of any kind, a cudaStream_t: one pointer each, passed by value
_BYTES = _HANDLE = _STREAM = ctypes.c_void_p
_STATE = _JPEG = _PARAMS = _DECODER = _BUFFER = _HANDLE
_IMAGES = _P(nvjpegImage_t)

#: Argument types of each function; all return an nvjpegStatus_t. Enums are C ints; an array is passed as a
#: pointer to its first element (a ctypes array, `byref`, or ``array.ctypes.data_as``).
PROTOTYPES: Mapping[str, tuple[Any, ...]] = {
    # library and handle
    "nvjpegGetProperty": (_INT, _P(_INT)),
    "nvjpegGetCudartProperty": (_INT, _P(_INT)),
    "nvjpegCreateSimple": (_P(_HANDLE),),
    "nvjpegCreateEx": (_INT, _P(nvjpegDevAllocator_t), _P(nvjpegPinnedAllocator_t), _UINT, _P(_HANDLE)),
    "nvjpegCreateExV2": (
        _INT,
        _P(nvjpegDevAllocatorV2_t),
        _P(nvjpegPinnedAllocatorV2_t),
        _UINT,
        _P(_HANDLE),
    ),
    "nvjpegDestroy": (_HANDLE,),
    "nvjpegGetHardwareDecoderInfo": (_HANDLE, _P(_UINT), _P(_UINT)),
    "nvjpegSetDeviceMemoryPadding": (_SIZE, _HANDLE),
    "nvjpegGetDeviceMemoryPadding": (_P(_SIZE), _HANDLE),
    "nvjpegSetPinnedMemoryPadding": (_SIZE, _HANDLE),
    "nvjpegGetPinnedMemoryPadding": (_P(_SIZE), _HANDLE),
    # one image, in one call
    "nvjpegGetImageInfo": (_HANDLE, _BYTES, _SIZE, _P(_INT), _P(_INT), _P(_INT), _P(_INT)),
    "nvjpegDecode": (_HANDLE, _STATE, _BYTES, _SIZE, _INT, _IMAGES, _STREAM),
    # state and batched decode
    "nvjpegJpegStateCreate": (_HANDLE, _P(_STATE)),
    "nvjpegJpegStateDestroy": (_STATE,),
    "nvjpegDecodeBatchedInitialize": (_HANDLE, _STATE, _INT, _INT, _INT),
    "nvjpegDecodeBatchedPreAllocate": (_HANDLE, _STATE, _INT, _INT, _INT, _INT, _INT),
    "nvjpegDecodeBatchedParseJpegTables": (_HANDLE, _STATE, _BYTES, _SIZE),
    "nvjpegDecodeBatched": (_HANDLE, _STATE, _P(_BYTES), _P(_SIZE), _IMAGES, _STREAM),
    "nvjpegDecodeBatchedEx": (_HANDLE, _STATE, _P(_BYTES), _P(_SIZE), _IMAGES, _P(_PARAMS), _STREAM),
    "nvjpegDecodeBatchedSupported": (_HANDLE, _JPEG, _P(_INT)),
    "nvjpegDecodeBatchedSupportedEx": (_HANDLE, _JPEG, _PARAMS, _P(_INT)),
    # bitstream
    "nvjpegJpegStreamCreate": (_HANDLE, _P(_JPEG)),
    "nvjpegJpegStreamDestroy": (_JPEG,),
    "nvjpegJpegStreamParse": (_HANDLE, _BYTES, _SIZE, _INT, _INT, _JPEG),
    "nvjpegJpegStreamParseHeader": (_HANDLE, _BYTES, _SIZE, _JPEG),
    "nvjpegJpegStreamParseTables": (_HANDLE, _BYTES, _SIZE, _JPEG),
    "nvjpegJpegStreamGetJpegEncoding": (_JPEG, _P(_INT)),
    "nvjpegJpegStreamGetFrameDimensions": (_JPEG, _P(_UINT), _P(_UINT)),
    "nvjpegJpegStreamGetComponentsNum": (_JPEG, _P(_UINT)),
    "nvjpegJpegStreamGetComponentDimensions": (_JPEG, _UINT, _P(_UINT), _P(_UINT)),
    "nvjpegJpegStreamGetChromaSubsampling": (_JPEG, _P(_INT)),
    "nvjpegJpegStreamGetExifOrientation": (_JPEG, _P(_INT)),
    "nvjpegJpegStreamGetSamplePrecision": (_JPEG, _P(_UINT)),
    # decode parameters
    "nvjpegDecodeParamsCreate": (_HANDLE, _P(_PARAMS)),
    "nvjpegDecodeParamsDestroy": (_PARAMS,),
    "nvjpegDecodeParamsSetOutputFormat": (_PARAMS, _INT),
    "nvjpegDecodeParamsSetROI": (_PARAMS, _INT, _INT, _INT, _INT),
    "nvjpegDecodeParamsSetAllowCMYK": (_PARAMS, _INT),
    "nvjpegDecodeParamsSetScaleFactor": (_PARAMS, _INT),
    "nvjpegDecodeParamsSetExifOrientation": (_PARAMS, _INT),
    # decoupled decode
    "nvjpegDecoderCreate": (_HANDLE, _INT, _P(_DECODER)),
    "nvjpegDecoderDestroy": (_DECODER,),
    "nvjpegDecoderJpegSupported": (_DECODER, _JPEG, _PARAMS, _P(_INT)),
    "nvjpegDecoderStateCreate": (_HANDLE, _DECODER, _P(_STATE)),
    "nvjpegDecodeJpeg": (_HANDLE, _DECODER, _STATE, _JPEG, _IMAGES, _PARAMS, _STREAM),
    "nvjpegDecodeJpegHost": (_HANDLE, _DECODER, _STATE, _PARAMS, _JPEG),
    "nvjpegDecodeJpegTransferToDevice": (_HANDLE, _DECODER, _STATE, _JPEG, _STREAM),
    "nvjpegDecodeJpegDevice": (_HANDLE, _DECODER, _STATE, _IMAGES, _STREAM),
    # work buffers of the decoupled decode
    "nvjpegBufferPinnedCreate": (_HANDLE, _P(nvjpegPinnedAllocator_t), _P(_BUFFER)),
    "nvjpegBufferPinnedCreateV2": (_HANDLE, _P(nvjpegPinnedAllocatorV2_t), _P(_BUFFER)),
    "nvjpegBufferPinnedResize": (_BUFFER, _SIZE, _STREAM),
    "nvjpegBufferPinnedRetrieve": (_BUFFER, _P(_SIZE), _P(ctypes.c_void_p)),
    "nvjpegBufferPinnedDestroy": (_BUFFER,),
    "nvjpegBufferDeviceCreate": (_HANDLE, _P(nvjpegDevAllocator_t), _P(_BUFFER)),
    "nvjpegBufferDeviceCreateV2": (_HANDLE, _P(nvjpegDevAllocatorV2_t), _P(_BUFFER)),
    "nvjpegBufferDeviceResize": (_BUFFER, _SIZE, _STREAM),
    "nvjpegBufferDeviceRetrieve": (_BUFFER, _P(_SIZE), _P(ctypes.c_void_p)),
    "nvjpegBufferDeviceDestroy": (_BUFFER,),
    "nvjpegStateAttachPinnedBuffer": (_STATE, _BUFFER),
    "nvjpegStateAttachDeviceBuffer": (_STATE, _BUFFER),
}


def bind(library: ctypes.CDLL, names: Iterable[str] = tuple(PROTOTYPES)) -> ctypes.CDLL:
    """Set the prototypes of `names` (default: all functions) and return `library`.

    It must be a ``ctypes.CDLL``, not a ``PyDLL``: a decode call takes milliseconds and must not hold the
    GIL.

    Raises
    ------
    AttributeError
        If the library lacks one of the functions, as versions before 12.3 do.
    """
    for name in names:
        function = getattr(library, name)
        function.argtypes, function.restype = PROTOTYPES[name], _INT
    return library


def version(library: ctypes.CDLL) -> tuple[int, int, int]:
    """Return the version of a bound library, such as (13, 2, 3); needs no driver."""
    return _property(library, "nvjpegGetProperty")


def cudart_version(library: ctypes.CDLL) -> tuple[int, int, int]:
    """Return the version of the CUDA runtime inside a bound library; needs no driver."""
    return _property(library, "nvjpegGetCudartProperty")


def _property(library: ctypes.CDLL, call: str) -> tuple[int, int, int]:
    def part(which: libraryPropertyType) -> int:
        value = ctypes.c_int(-1)
        check(getattr(library, call)(which, ctypes.byref(value)), call)
        return value.value

    kinds = libraryPropertyType
    return part(kinds.MAJOR_VERSION), part(kinds.MINOR_VERSION), part(kinds.PATCH_LEVEL)


_MEANING = {
    nvjpegStatus_t.NVJPEG_STATUS_NOT_INITIALIZED: "the handle or the state was not set up",
    nvjpegStatus_t.NVJPEG_STATUS_INVALID_PARAMETER: (
        "an argument is wrong: a null pointer, a handle of another kind, a size out of range"
    ),
    nvjpegStatus_t.NVJPEG_STATUS_BAD_JPEG: "the bytes are not a JPEG, or a damaged one",
    nvjpegStatus_t.NVJPEG_STATUS_JPEG_NOT_SUPPORTED: "this backend does not decode this kind of JPEG",
    nvjpegStatus_t.NVJPEG_STATUS_ALLOCATOR_FAILURE: "out of GPU or pinned memory",
    nvjpegStatus_t.NVJPEG_STATUS_EXECUTION_FAILED: (
        "a CUDA call failed, this one or an earlier one on the same device"
    ),
    nvjpegStatus_t.NVJPEG_STATUS_ARCH_MISMATCH: "the GPU does not support this",
    nvjpegStatus_t.NVJPEG_STATUS_INTERNAL_ERROR: "an error inside nvJPEG, often from an earlier CUDA call",
    nvjpegStatus_t.NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED: "this backend does not support this call",
    nvjpegStatus_t.NVJPEG_STATUS_INCOMPLETE_BITSTREAM: "the JPEG ends too early",
}

# Without a driver, every creating call fails with 6; without an engine, with 7 (tried).
_MEANING_AT_CREATION = {
    nvjpegStatus_t.NVJPEG_STATUS_EXECUTION_FAILED: (
        "no CUDA device can be used, or the driver is too old for this nvJPEG"
    ),
    nvjpegStatus_t.NVJPEG_STATUS_ARCH_MISMATCH: (
        "the GPU has no JPEG engine (T4, A10 and V100 have none), or the container was started without the "
        "'video' driver capability"
    ),
}
_CREATING = frozenset({"nvjpegCreateSimple", "nvjpegCreateEx", "nvjpegCreateExV2", "nvjpegDecoderCreate"})


def check(status: int, call: str) -> None:
    """Raise an error with the status's name and usual meaning, unless `status` is success.

    Parameters
    ----------
    status : int
        The function's return value.
    call : str
        The function's name.

    Raises
    ------
    NvjpegError
        With `status` as its attribute.
    """
    if status == 0:
        return
    try:
        known = nvjpegStatus_t(status)
    except ValueError:
        raise NvjpegError(f"{call} returned {status}, which is not an nvjpegStatus_t", status) from None
    special = _MEANING_AT_CREATION if call in _CREATING else {}
    meaning = special.get(known) or _MEANING[known]
    raise NvjpegError(f"{call} returned {known.name} ({status}): {meaning}", status)
