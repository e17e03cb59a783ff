"""Decodes JPEGs by libturbojpeg in one call without Python's lock: by 3.0 only the needed part of each.

The functions and numbers are those of ``turbojpeg.h`` of 2.0 and 3.0; they are called by their addresses.
"""

from __future__ import annotations

from ffcv_gpu.kernels._foreign import INT, WORD, foreign
from ffcv_gpu.kernels._numba import entry, loop, shared

__all__ = ["CROPPING", "NO_MEMORY", "REFUSED", "WHOLE", "decodable", "decode_cropped", "decode_whole"]

#: 3.0's functions, in the order in which `decode_cropped` takes their addresses
CROPPING = (
    "tj3Init",
    "tj3Set",
    "tj3DecompressHeader",
    "tj3Get",
    "tj3SetCroppingRegion",
    "tj3Decompress8",
    "tj3Destroy",
)
INIT, SET, HEADER, GET, CROP, DECOMPRESS, DESTROY = range(7)

TJINIT_DECOMPRESS = 1
TJPARAM_STOPONWARNING = 0
TJPARAM_SUBSAMP = 4
TJPARAM_JPEGWIDTH = 5
TJPARAM_JPEGHEIGHT = 6
TJPARAM_FASTDCT = 10
TJPF_RGB = 0
#: `tjMCUWidth`: pixels, for TJSAMP_444, _422, _420, _GRAY, _440, _411, _441; rectangles begin at a multiple
MCU_WIDTHS = (8, 16, 16, 8, 8, 32, 8)

#: 2.0's functions, which 3.0 has, too, in the order in which `decode_whole` takes their addresses
WHOLE = ("tjInitDecompress", "tjDecompressHeader3", "tjDecompress2", "tjDestroy")
OLD_INIT, OLD_HEADER, OLD_DECOMPRESS, OLD_DESTROY = range(4)

TJFLAG_FASTDCT, TJFLAG_ACCURATEDCT, TJFLAG_STOPONWARNING = 2048, 4096, 8192
#: what `tjDecompressHeader3` writes: width, height, chroma subsampling, colour space
FACTS, FACT_BYTES = 4, 4

# The outcome for an image; 0: decoded.
REFUSED, NO_MEMORY = 1, 2

tj3_init = foreign(WORD, INT)
tj3_set = foreign(INT, WORD, INT, INT)
tj3_decompress_header = foreign(INT, WORD, WORD, WORD)
tj3_get = foreign(INT, WORD, INT)
tj3_set_cropping_region = foreign(INT, WORD, WORD, WORD)  # the two words are a tjregion: x, y; w, h
tj3_decompress8 = foreign(INT, WORD, WORD, WORD, WORD, INT, INT)
tj3_destroy = foreign(None, WORD)
tj_init_decompress = foreign(WORD)
tj_decompress_header3 = foreign(INT, WORD, WORD, WORD, WORD, WORD, WORD, WORD)
tj_decompress2 = foreign(INT, WORD, WORD, WORD, WORD, INT, INT, INT, INT, INT)
tj_destroy = foreign(INT, WORD)


@shared
def decodable(subsampling, height, width, y, x, bottom, right):
    """Return the smallest part to decode so that rows [y, bottom) and columns [x, right) are right.

    The whole image if they are not inside it, or where a part may begin is unknown with its subsampling.
    """
    inside = 0 <= y < bottom <= height and 0 <= x < right <= width
    if not (inside and 0 <= subsampling < len(MCU_WIDTHS)):
        return 0, 0, height, width
    unit = MCU_WIDTHS[subsampling]
    if unit > 8:
        # Chroma is interpolated between neighbours, except at the edges of the decoded part. So these edges
        # must be outside the rectangle.
        x, right = max(x - 1, 0), min(right + 2, width)
    x -= x % unit
    if unit > 8 and right - x < 3:
        # One column of chroma: libjpeg would no longer interpolate between its rows, either.
        x = max(x - unit, 0)
    return y, x, bottom, right


@loop
def decode_with(handle, tj, row):
    """Decode an image with a new handle; return whether that went well."""
    address, size, to, height, width = row[0], row[1], row[2], row[3], row[4]
    if tj3_decompress_header(tj[HEADER], handle, address, size):
        return False
    if tj3_get(tj[GET], handle, TJPARAM_JPEGHEIGHT) != height:
        return False
    if tj3_get(tj[GET], handle, TJPARAM_JPEGWIDTH) != width:
        return False
    subsampling = tj3_get(tj[GET], handle, TJPARAM_SUBSAMP)
    y, x, bottom, right = decodable(subsampling, height, width, row[5], row[6], row[7], row[8])
    if 0 <= subsampling < len(MCU_WIDTHS):
        # Also for the whole image: the library reads the header once more, and would write as many pixels as
        # it then says, if somebody changes the JPEG meanwhile.
        # little-endian: the first member of the struct is the lower half of its word
        place, extent = x | (y << 32), (right - x) | ((bottom - y) << 32)
        if tj3_set_cropping_region(tj[CROP], handle, place, extent):
            return False
        to += 3 * (y * width + x)
    return not tj3_decompress8(tj[DECOMPRESS], handle, address, size, to, 3 * width, TJPF_RGB)


@loop
def decode_image(tj, fast, row):
    """Decode an image; return the outcome.

    Each has a handle of its own: tables stay in it, and a later image that lacks its own would use them.
    Creating and closing it takes 2 microseconds.
    """
    handle = tj3_init(tj[INIT], TJINIT_DECOMPRESS)
    if not handle:
        return NO_MEMORY
    tj3_set(tj[SET], handle, TJPARAM_STOPONWARNING, 1)
    if fast:
        tj3_set(tj[SET], handle, TJPARAM_FASTDCT, 1)
    good = decode_with(handle, tj, row)
    tj3_destroy(tj[DESTROY], handle)
    return 0 if good else REFUSED


@entry
def decode_cropped(tj, rows, fast, outcome):
    """Decode the needed part of images; warnings count as errors, as damage is often no more to libjpeg.

    Parameters
    ----------
    tj : int64 (7,)
        The addresses of `CROPPING`.
    rows : int64 (n, 9)
        Of each image: address and size in bytes of the JPEG, address of the image's pixels, height and width
        (refused if the JPEG has others), and the needed part: y, x, bottom, right. Its pixels go to where
        they are in the whole image, whose rows are 3 * width bytes; memory outside it may be overwritten.
    fast : int64
        1: libjpeg's ifast DCT; 0: islow.
    outcome : int8 (n,)
        0, `REFUSED` or `NO_MEMORY`.
    """
    for i in range(rows.shape[0]):
        outcome[i] = decode_image(tj, fast, rows[i])


@loop
def decode_whole_with(handle, tj, flags, row, facts, at):
    """Decode a whole image with a new handle; return whether that went well."""
    address, size, to, height, width = row[0], row[1], row[2], row[3], row[4]
    places = at, at + FACT_BYTES, at + 2 * FACT_BYTES, at + 3 * FACT_BYTES
    if tj_decompress_header3(
        tj[OLD_HEADER], handle, address, size, places[0], places[1], places[2], places[3]
    ):
        return False
    # Asked for another size than the JPEG's, `tjDecompress2` would scale it.
    if facts[0] != width or facts[1] != height:
        return False
    return not tj_decompress2(
        tj[OLD_DECOMPRESS], handle, address, size, to, width, 3 * width, height, TJPF_RGB, flags
    )


@entry
def decode_whole(tj, rows, fast, outcome, facts, at):
    """Decode whole images, as `decode_cropped` with a library that cannot crop.

    Parameters
    ----------
    tj : int64 (4,)
        The addresses of `WHOLE`.
    rows, fast, outcome
        See `decode_cropped`; which part is needed is ignored.
    facts : int32 (4,)
        For this call's own use; its address is `at`.
    at : int64
    """
    flags = TJFLAG_STOPONWARNING | (TJFLAG_FASTDCT if fast else TJFLAG_ACCURATEDCT)
    for i in range(rows.shape[0]):
        handle = tj_init_decompress(tj[OLD_INIT])
        if not handle:
            outcome[i] = NO_MEMORY
            continue
        good = decode_whole_with(handle, tj, flags, rows[i], facts, at)
        tj_destroy(tj[OLD_DESTROY], handle)
        outcome[i] = 0 if good else REFUSED
