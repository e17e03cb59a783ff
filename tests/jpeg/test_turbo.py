"""The CPU JPEG backend against libjpeg-turbo and Pillow: pixels, and a status for each image."""

import io
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.jpeg.base import DecodeStatus, Encoded
from ffcv_gpu.jpeg.turbo import TurboBackend
from tests.odd_jpegs import in_410, of_12_bits


def picture(height, width, seed):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([(x * 3 + seed) % 256, (y * 2) % 256, (x + y) % 256], -1).astype(np.uint8)


def jpeg(height, width, seed=0, **options):
    data = io.BytesIO()
    Image.fromarray(picture(height, width, seed)).save(data, "jpeg", **{"quality": 90, **options})
    return data.getvalue()


def decode(files, sizes, dct="accurate"):
    stored = np.frombuffer(b"".join(files), np.uint8)
    lengths = np.array([len(f) for f in files])
    heights, widths = np.array(sizes).T
    spaces = 3 * heights * widths + 7
    starts = np.cumsum(spaces) - spaces
    arena = np.full(spaces.sum(), 0xA5, np.uint8)
    encoded = Encoded(stored, np.cumsum(lengths) - lengths, lengths, heights, widths)
    outcome = TurboBackend(dct).submit(encoded, arena, starts).wait()
    images = [
        arena[s : s + 3 * h * w].reshape(h, w, 3) for s, h, w in zip(starts, heights, widths, strict=True)
    ]
    guards = [
        arena[s + 3 * h * w : s + 3 * h * w + 7] for s, h, w in zip(starts, heights, widths, strict=True)
    ]
    assert all((guard == 0xA5).all() for guard in guards), "wrote past an image"
    return outcome, images


FORMS = [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"restart_marker_rows": 1}]


@pytest.mark.parametrize("dct", ["accurate", "fast"])
def test_pixels_are_libjpeg_turbos(dct):
    sizes = [(17 + 3 * i, 40 - i) for i in range(len(FORMS))]
    files = [jpeg(*size, seed=i, **form) for i, (size, form) in enumerate(zip(sizes, FORMS, strict=True))]
    outcome, images = decode(files, sizes, dct)
    assert not outcome.status.any() and outcome.reasons == {}
    for image, file in zip(images, files, strict=True):
        assert np.array_equal(image, simplejpeg.decode_jpeg(file, fastdct=dct == "fast"))
        pillow = np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(int)
        assert np.abs(image - pillow).mean() < (0.05 if dct == "accurate" else 2.5)


def test_garbage_first_then_good():
    good = jpeg(20, 30)
    files = [b"", b"not a jpeg at all", good[: len(good) // 2], good[:30], jpeg(21, 30), jpeg(200, 300), good]
    for _ in range(10):
        outcome, images = decode(files, [(20, 30)] * len(files))
        bad, large = DecodeStatus.BAD_JPEG, DecodeStatus.WRONG_SIZE
        assert outcome.status.tolist() == [bad, bad, bad, bad, large, large, DecodeStatus.GOOD]
        assert set(outcome.reasons) == set(range(6)) and all(outcome.reasons.values())
        assert np.array_equal(images[-1], simplejpeg.decode_jpeg(good))


@pytest.mark.parametrize("make", [of_12_bits, in_410])
def test_a_kind_that_libjpeg_cannot_decode_is_not_called_damaged(make):
    outcome, _ = decode([make(), jpeg(16, 32)], [(16, 32)] * 2)
    assert outcome.status.tolist() == [DecodeStatus.UNSUPPORTED, DecodeStatus.GOOD] and outcome.reasons[0]


def test_a_wrong_bit_in_the_scan_is_not_called_a_kind():
    data = bytearray(jpeg(200, 300))
    data[data.rindex(b"\xff\0") + 1] ^= 0x20  # a marker 0x20, which no JPEG has
    outcome, _ = decode([bytes(data)], [(200, 300)])
    assert outcome.status.tolist() == [DecodeStatus.BAD_JPEG] and "marker type" in outcome.reasons[0]


def test_a_good_image_is_not_called_bad_where_memory_runs_out():
    """A progressive JPEG's coefficients take as much memory as its pixels; only the pixels' is there."""
    code = """
        import io, resource
        import numpy as np
        from PIL import Image
        from ffcv_gpu.jpeg.facts import scan_jpeg
        from ffcv_gpu.jpeg.rewrite import decode_rgb
        from ffcv_gpu.jpeg.turbo import TurboBackend

        data = io.BytesIO()
        Image.new("RGB", (4000, 4000)).save(data, "jpeg", progressive=True)
        data, room = np.frombuffer(data.getvalue(), np.uint8), np.empty(3 * 4000 * 4000, np.uint8)
        taken = 4096 * int(open("/proc/self/statm").read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (taken + (16 << 20), resource.RLIM_INFINITY))
        decoders = (
            lambda: TurboBackend().decode_files([(0, data, room, 4000, 4000, None)]),
            lambda: decode_rgb(data.tobytes(), scan_jpeg(data.tobytes()), room),
        )
        for decode in decoders:
            try:
                print(decode())
            except MemoryError as error:
                print(error)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(decoders[0]())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120, check=True
    )
    words = "libjpeg: Insufficient memory (case 4)"
    assert done.stdout.splitlines() == [words, words, "{}"], done.stdout


def test_a_side_that_is_too_long_for_libjpeg_is_named():
    data = jpeg(8, 16)
    wide = data.replace(b"\xff\xc0\x00\x11\x08\0\x08\0\x10", b"\xff\xc0\x00\x11\x08\0\x08\xff\xff")
    outcome, _ = decode([wide], [(8, 65535)])
    assert outcome.status.tolist() == [DecodeStatus.UNSUPPORTED]
    assert outcome.reasons[0] == "a side of 65535 pixels; libjpeg decodes 65500"


@pytest.mark.parametrize("size", [(10, 12), (20, 31), (200, 300)])
def test_an_image_of_another_size_than_recorded_is_no_success(size):
    outcome, _ = decode([jpeg(*size)], [(20, 30)])
    assert outcome.status.tolist() == [DecodeStatus.WRONG_SIZE]
    assert outcome.reasons[0] == f"the JPEG is {size[1]} x {size[0]} pixels"


def test_turned_images_of_equal_bytes_are_no_success():
    outcome, _ = decode([jpeg(10, 12)], [(12, 10)])
    assert outcome.status.tolist() == [DecodeStatus.WRONG_SIZE]


def test_grey_becomes_rgb():
    data = io.BytesIO()
    Image.fromarray(picture(9, 9, 0)[..., 0]).save(data, "jpeg")
    outcome, images = decode([data.getvalue()], [(9, 9)])
    assert not outcome.status.any() and (images[0][..., :1] == images[0]).all()


def test_an_unknown_dct_is_refused():
    with pytest.raises(PipelineError, match="dct"):
        TurboBackend("slow")
