"""nvJPEG's enums, flags and structs under their own names; `ffcv_gpu.native.nvjpeg` has its functions.

They are the same in nvJPEG 12.4 and 13.x, except for one member of `nvjpegOutputFormat_t`. A test compares
them with the headers of both wheels.
"""

from __future__ import annotations

import ctypes
from enum import IntEnum

__all__ = [
    "NVJPEG_FLAGS_BITSTREAM_STRICT",
    "NVJPEG_FLAGS_DEFAULT",
    "NVJPEG_FLAGS_ENABLE_MEMORY_POOLS",
    "NVJPEG_FLAGS_HW_DECODE_NO_PIPELINE",
    "NVJPEG_FLAGS_REDUCED_MEMORY_DECODE",
    "NVJPEG_FLAGS_REDUCED_MEMORY_DECODE_ZERO_COPY",
    "NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION",
    "NVJPEG_MAX_COMPONENT",
    "libraryPropertyType",
    "nvjpegBackend_t",
    "nvjpegChromaSubsampling_t",
    "nvjpegDevAllocatorV2_t",
    "nvjpegDevAllocator_t",
    "nvjpegExifOrientation_t",
    "nvjpegImage_t",
    "nvjpegJpegEncoding_t",
    "nvjpegOutputFormat_t",
    "nvjpegPinnedAllocatorV2_t",
    "nvjpegPinnedAllocator_t",
    "nvjpegScaleFactor_t",
    "nvjpegStatus_t",
    "tDevFree",
    "tDevFreeV2",
    "tDevMalloc",
    "tDevMallocV2",
    "tPinnedFree",
    "tPinnedFreeV2",
    "tPinnedMalloc",
    "tPinnedMallocV2",
]


class nvjpegStatus_t(IntEnum):
    """The return value of every function."""

    NVJPEG_STATUS_SUCCESS = 0
    NVJPEG_STATUS_NOT_INITIALIZED = 1
    NVJPEG_STATUS_INVALID_PARAMETER = 2
    NVJPEG_STATUS_BAD_JPEG = 3
    NVJPEG_STATUS_JPEG_NOT_SUPPORTED = 4
    NVJPEG_STATUS_ALLOCATOR_FAILURE = 5
    NVJPEG_STATUS_EXECUTION_FAILED = 6
    NVJPEG_STATUS_ARCH_MISMATCH = 7
    NVJPEG_STATUS_INTERNAL_ERROR = 8
    NVJPEG_STATUS_IMPLEMENTATION_NOT_SUPPORTED = 9
    NVJPEG_STATUS_INCOMPLETE_BITSTREAM = 10


class nvjpegBackend_t(IntEnum):
    """The decoding backend, chosen when a handle or a decoder is created."""

    NVJPEG_BACKEND_DEFAULT = 0
    NVJPEG_BACKEND_HYBRID = 1
    NVJPEG_BACKEND_GPU_HYBRID = 2
    NVJPEG_BACKEND_HARDWARE = 3
    NVJPEG_BACKEND_GPU_HYBRID_DEVICE = 4
    NVJPEG_BACKEND_HARDWARE_DEVICE = 5
    NVJPEG_BACKEND_LOSSLESS_JPEG = 6


class nvjpegOutputFormat_t(IntEnum):
    """Layout of the decoded pixels."""

    NVJPEG_OUTPUT_UNCHANGED = 0
    NVJPEG_OUTPUT_YUV = 1
    NVJPEG_OUTPUT_Y = 2
    NVJPEG_OUTPUT_RGB = 3
    NVJPEG_OUTPUT_BGR = 4
    NVJPEG_OUTPUT_RGBI = 5
    NVJPEG_OUTPUT_BGRI = 6
    NVJPEG_OUTPUT_UNCHANGEDI_U16 = 7
    NVJPEG_OUTPUT_NV12 = 8
    NVJPEG_OUTPUT_YUY2 = 9
    #: 13.1 and newer
    NVJPEG_OUTPUT_UNCHANGEDI = 10


class nvjpegChromaSubsampling_t(IntEnum):
    """Sampling of the chroma components."""

    NVJPEG_CSS_444 = 0
    NVJPEG_CSS_422 = 1
    NVJPEG_CSS_420 = 2
    NVJPEG_CSS_440 = 3
    NVJPEG_CSS_411 = 4
    NVJPEG_CSS_410 = 5
    NVJPEG_CSS_GRAY = 6
    NVJPEG_CSS_410V = 7
    NVJPEG_CSS_UNKNOWN = -1


class nvjpegJpegEncoding_t(IntEnum):
    """The JPEG process: second byte of the start-of-frame marker."""

    NVJPEG_ENCODING_UNKNOWN = 0x0
    NVJPEG_ENCODING_BASELINE_DCT = 0xC0
    NVJPEG_ENCODING_EXTENDED_SEQUENTIAL_DCT_HUFFMAN = 0xC1
    NVJPEG_ENCODING_PROGRESSIVE_DCT_HUFFMAN = 0xC2
    NVJPEG_ENCODING_LOSSLESS_HUFFMAN = 0xC3


class nvjpegScaleFactor_t(IntEnum):
    """Size of the decoded image relative to the stored one, rounded up."""

    NVJPEG_SCALE_NONE = 0
    NVJPEG_SCALE_1_BY_2 = 1
    NVJPEG_SCALE_1_BY_4 = 2
    NVJPEG_SCALE_1_BY_8 = 3


class nvjpegExifOrientation_t(IntEnum):
    """EXIF's orientation tag; 0 if there is none."""

    NVJPEG_ORIENTATION_UNKNOWN = 0
    NVJPEG_ORIENTATION_NORMAL = 1
    NVJPEG_ORIENTATION_FLIP_HORIZONTAL = 2
    NVJPEG_ORIENTATION_ROTATE_180 = 3
    NVJPEG_ORIENTATION_FLIP_VERTICAL = 4
    NVJPEG_ORIENTATION_TRANSPOSE = 5
    NVJPEG_ORIENTATION_ROTATE_90 = 6
    NVJPEG_ORIENTATION_TRANSVERSE = 7
    NVJPEG_ORIENTATION_ROTATE_270 = 8


class libraryPropertyType(IntEnum):
    """A part of a version number; from CUDA's ``library_types.h``."""

    MAJOR_VERSION = 0
    MINOR_VERSION = 1
    PATCH_LEVEL = 2


NVJPEG_FLAGS_DEFAULT = 0
NVJPEG_FLAGS_HW_DECODE_NO_PIPELINE = 1
#: without effect since 11.1
NVJPEG_FLAGS_ENABLE_MEMORY_POOLS = 1 << 1
NVJPEG_FLAGS_BITSTREAM_STRICT = 1 << 2
NVJPEG_FLAGS_REDUCED_MEMORY_DECODE = 1 << 3
NVJPEG_FLAGS_REDUCED_MEMORY_DECODE_ZERO_COPY = 1 << 4
NVJPEG_FLAGS_UPSAMPLING_WITH_INTERPOLATION = 1 << 5

NVJPEG_MAX_COMPONENT = 4


class nvjpegImage_t(ctypes.Structure):
    """The destination of one image: device pointers, and bytes from row to row. 64 bytes."""

    _fields_ = (
        ("channel", ctypes.c_void_p * NVJPEG_MAX_COMPONENT),
        ("pitch", ctypes.c_size_t * NVJPEG_MAX_COMPONENT),
    )


# The members are addresses, not function objects: nvJPEG calls an allocator from inside a call that has
# released the GIL, so use machine code (numba.cfunc) here. A Python callback of the types below must acquire
# the GIL, which can deadlock.
_ADDRESS = ctypes.c_void_p


class nvjpegDevAllocator_t(ctypes.Structure):
    """An allocator of device memory, like cudaMalloc and cudaFree."""

    _fields_ = (("dev_malloc", _ADDRESS), ("dev_free", _ADDRESS))


class nvjpegPinnedAllocator_t(ctypes.Structure):
    """An allocator of pinned host memory, like cudaHostAlloc and cudaFreeHost."""

    _fields_ = (("pinned_malloc", _ADDRESS), ("pinned_free", _ADDRESS))


class nvjpegDevAllocatorV2_t(ctypes.Structure):
    """A stream-ordered allocator of device memory, with a context pointer of the caller."""

    _fields_ = (("dev_malloc", _ADDRESS), ("dev_free", _ADDRESS), ("dev_ctx", ctypes.c_void_p))


class nvjpegPinnedAllocatorV2_t(ctypes.Structure):
    """A stream-ordered allocator of pinned host memory, with a context pointer of the caller."""

    _fields_ = (("pinned_malloc", _ADDRESS), ("pinned_free", _ADDRESS), ("pinned_ctx", ctypes.c_void_p))


_INT, _POINTER, _SIZE = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
_OUT = ctypes.POINTER(ctypes.c_void_p)

# The types of the functions at the addresses above; each returns 0 for success.
tDevMalloc = ctypes.CFUNCTYPE(_INT, _OUT, _SIZE)
tDevFree = ctypes.CFUNCTYPE(_INT, _POINTER)
tPinnedMalloc = ctypes.CFUNCTYPE(_INT, _OUT, _SIZE, ctypes.c_uint)
tPinnedFree = ctypes.CFUNCTYPE(_INT, _POINTER)
tDevMallocV2 = ctypes.CFUNCTYPE(_INT, _POINTER, _OUT, _SIZE, _POINTER)
tDevFreeV2 = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _SIZE, _POINTER)
tPinnedMallocV2 = ctypes.CFUNCTYPE(_INT, _POINTER, _OUT, _SIZE, _POINTER)
tPinnedFreeV2 = ctypes.CFUNCTYPE(_INT, _POINTER, _POINTER, _SIZE, _POINTER)
