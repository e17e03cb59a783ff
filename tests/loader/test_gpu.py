"""The loader's way through a GPU, on a fake one: the same batches as on the CPU, whatever goes wrong.

Work on the fake waits until somebody waits for it, so memory used again too early shows as wrong values.
"""

from __future__ import annotations

import gc
import logging
import threading

import numpy as np
import pytest
import simplejpeg
import torch

from ffcv_gpu.errors import BackendUnavailable, DecodeError, OutOfGpuMemory, PipelineError, ReadError
from ffcv_gpu.fields import (
    BytesField,
    ImageField,
    IntField,
    MaskField,
    NDArrayField,
    RaggedField,
    RGBImageField,
)
from ffcv_gpu.fields.decoders import (
    BytesDecoder,
    CenterCropRGBImageDecoder,
    IntDecoder,
    NDArrayDecoder,
    RandomResizedCropRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.fields.ragged import BoxDecoder
from ffcv_gpu.format import open_beton
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.native import nvjpeg_library
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.pipeline.operation import AllocationQuery, Operation
from ffcv_gpu.ssl import PadRGBImageDecoder
from ffcv_gpu.transforms import (
    Convert,
    Cutout,
    GaussianBlur,
    ImageMixup,
    LabelMixup,
    LabelRandomHorizontalFlip,
    MixupToOneHot,
    NormalizeImage,
    Poison,
    RandAugment,
    RandomBrightness,
    RandomColorJitter,
    RandomContrast,
    RandomErasing,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomSaturation,
    RandomSolarization,
    RandomTranslate,
    ReplaceLabel,
    Rotate,
    Squeeze,
    ToDevice,
    ToTensor,
    ToTorchImage,
    TrivialAugment,
)
from ffcv_gpu.writer import DatasetWriter
from tests.fake_streams import FakeEvent

N = 41
MEAN, STD = np.array([124.0, 117.0, 104.0]), np.array([58.0, 57.0, 57.0])


class Mixed:
    """Sample i: JPEG bytes for `share` of the samples, else pixels; label; vector; text."""

    def __init__(self, make_photo, share, size=None):
        self.sizes = [size or (60 + 7 * (i % 5), 80 - 3 * (i % 7)) for i in range(N)]
        self.photos = [make_photo(*side, seed=i) for i, side in enumerate(self.sizes)]
        self.share = share

    def __len__(self):
        return N

    def __getitem__(self, i):
        jpeg = (i * 7919 % N) / N < self.share
        kind = "420" if i % 2 else "444"
        image = simplejpeg.encode_jpeg(self.photos[i], 92, colorsubsampling=kind) if jpeg else self.photos[i]
        vector = np.arange(6, dtype=np.float32).reshape(2, 3) * i
        return image, i * 10, vector, np.frombuffer(b"x" * (i % 5), np.uint8)


def write(path, dataset):
    fields = {
        "image": RGBImageField(),
        "label": IntField(),
        "vector": NDArrayField(np.dtype("float32"), (2, 3)),
        "text": BytesField(),
    }
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(dataset)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory, make_photo):
    folder = tmp_path_factory.mktemp("gpu")
    return {share: write(folder / f"{share}.beton", Mixed(make_photo, share)) for share in (0.0, 0.4, 1.0)}


@pytest.fixture(scope="module")
def equal_sizes(tmp_path_factory, make_photo):
    return write(tmp_path_factory.mktemp("gpu") / "equal.beton", Mixed(make_photo, 0.5, (32, 32)))


def crop(device=0, dtype=np.float16, channels_last=True):
    there = [] if device is None else [ToDevice(device)]
    return [
        RandomResizedCropRGBImageDecoder((24, 28)), RandomHorizontalFlip(), RandomTranslate(4, (5, 6, 7)),
        Cutout(7, (200, 0, 3)), ToTensor(), *there, ToTorchImage(channels_last=channels_last),
        NormalizeImage(MEAN, STD, dtype),
    ]  # fmt: skip


def number(device=0):
    return [IntDecoder(), ToTensor(), *([] if device is None else [ToDevice(device)]), Squeeze(1)]


def pipelines(device=0, **more):
    there = [] if device is None else [ToDevice(device)]
    given = {
        "vector": [NDArrayDecoder(), ToTensor(), *there],
        "text": [BytesDecoder(), ToTensor(), *there],
    }
    return {"image": crop(device), "label": number(device), **given, **more}


SETTINGS = {"seed": 3, "order": OrderOption.RANDOM, "drop_last": False, "num_workers": 2}


def on_cpu(path, made, batch_size=8, epochs=1, **settings):
    loader = Loader(path, batch_size, pipelines=made, **{**SETTINGS, **settings})
    return [batch for _ in range(epochs) for batch in loader]


def kept(fake, loader, epochs=1):
    """All batches, read only at the very end."""
    batches = [batch for _ in range(epochs) for batch in loader]
    fake.owner.consumer.synchronize()
    return batches


def same(got, expected):
    assert len(got) == len(expected)
    for one, other in zip(got, expected, strict=True):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
            assert a.ndim < 4 or a.stride() == b.stride()
            assert torch.equal(a, b)


# ---- the same batches


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("os_cache", [True, False], ids=["mapped", "pread"])
@pytest.mark.parametrize("deferred", [True, False], ids=["late", "early"])
def test_batches_equal_the_cpu_s(gpu, files, share, os_cache, deferred):
    fake = gpu(deferred=deferred)
    loader = Loader(files[share], 8, pipelines=pipelines(), os_cache=os_cache, **SETTINGS)
    same(kept(fake, loader, epochs=2), on_cpu(files[share], pipelines(None), epochs=2))
    counts = loader.stats().counts
    jpegs = sum((i * 7919 % N) / N < share for i in range(N))
    assert counts.get("jpeg: engine", 0) == 2 * jpegs
    assert counts.get("raw: crops from the file", 0) == 2 * (N - jpegs)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("channels_last", [True, False])
def test_every_type_and_layout(gpu, files, dtype, channels_last):
    fake = gpu()
    made = {"image": crop(0, dtype, channels_last)}
    loader = Loader(files[0.4], 8, pipelines=pipelines(**made), **SETTINGS)
    expected = on_cpu(files[0.4], pipelines(None, image=crop(None, dtype, channels_last)))
    same(kept(fake, loader), expected)


def test_the_position_of_to_device_does_not_matter(gpu, files):
    fake = gpu()
    late = [*crop(None), ToDevice("cuda")]
    loader = Loader(files[0.4], 8, pipelines=pipelines(image=late), **SETTINGS)
    assert "tail" not in loader.explain()
    same(kept(fake, loader), on_cpu(files[0.4], pipelines(None)))
    assert fake.launches.launched == len(loader)


def test_several_outputs_of_one_decode(gpu, files):
    """Two views whose crops differ: a raw image is uploaded as far as either shows it, decoded once."""
    fake = gpu()

    def views(device):
        second = PipelineSpec(
            "image",
            CenterCropRGBImageDecoder((16, 16), 0.5),
            [ToTensor()] + ([ToDevice(0)] if device else []),
        )
        return pipelines(0 if device else None, second=second)

    loader = Loader(files[0.4], 8, pipelines=views(True), **SETTINGS)
    same(kept(fake, loader), on_cpu(files[0.4], views(False)))
    jpegs = sum((i * 7919 % N) / N < 0.4 for i in range(N))
    assert loader.stats().counts["jpeg: engine"] == jpegs


def test_two_resamplings_are_two_launches(gpu, files):
    fake = gpu()

    def twice(device):
        there = [ToDevice(0)] if device else []
        steps = [CenterCropRGBImageDecoder((40, 44), 0.9), RandomHorizontalFlip(),
                 RandomResizedCrop((0.3, 1.0), (0.75, 4 / 3), 20), ToTensor(), *there]  # fmt: skip
        return pipelines(0 if device else None, image=steps)

    loader = Loader(files[0.4], 8, pipelines=twice(True), **SETTINGS)
    same(kept(fake, loader), on_cpu(files[0.4], twice(False)))
    assert fake.launches.launched == 2 * len(loader)


def test_whole_images(gpu, equal_sizes):
    fake = gpu()
    made = pipelines(image=[SimpleRGBImageDecoder(), ToTensor(), ToDevice(0)])
    loader = Loader(equal_sizes, 8, pipelines=made, **SETTINGS)
    expected = on_cpu(equal_sizes, pipelines(None, image=[SimpleRGBImageDecoder(), ToTensor()]))
    same(kept(fake, loader), expected)


def test_labels_stay_on_the_cpu_without_to_device(gpu, files):
    fake = gpu()
    loader = Loader(files[0.4], 8, pipelines=pipelines(label=number(None)), **SETTINGS)
    same(kept(fake, loader), on_cpu(files[0.4], pipelines(None)))
    text = loader.explain()
    assert "runs on cuda:0: " in text and "decoded by nvjpeg" in text
    assert "'label': tensor (N) int64 on cpu" in text


def test_the_cpu_may_decode_for_the_gpu(gpu, files):
    fake = gpu()
    loader = Loader(files[0.4], 8, pipelines=pipelines(), jpeg_backend="turbo", **SETTINGS)
    same(kept(fake, loader), on_cpu(files[0.4], pipelines(None)))
    assert not fake.nvjpeg.calls
    assert loader.stats().counts["jpeg: turbo"]


def test_normalise_on_the_cpu_and_upload(gpu, files, monkeypatch):
    """where="cpu": the whole pipeline runs on the CPU; on the fake, "uploading" is a copy."""
    fake = gpu()
    monkeypatch.setattr(ToDevice, "apply", lambda self, batch, spec: batch.clone())
    steps = [*crop()[:-1], NormalizeImage(MEAN, STD, np.float16, where="cpu")]
    loader = Loader(files[0.4], 8, pipelines=pipelines(image=steps), **SETTINGS)
    same(kept(fake, loader), on_cpu(files[0.4], pipelines(None)))
    assert fake.launches.launched == 0


def test_normalise_on_the_gpu_is_refused_without_one(files):
    steps = [*crop(None)[:-1], NormalizeImage(MEAN, STD, np.float16, where="gpu")]
    with pytest.raises(PipelineError, match=r"where='gpu'.*ToDevice\(0\)"):
        Loader(files[0.4], 8, pipelines=pipelines(None, image=steps))


class AddOne(Operation):
    def generate_code(self):
        def add(batch, memory):
            memory[:] = batch + 1
            return memory

        return add

    def declare_state_and_memory(self, previous_state):
        return previous_state, AllocationQuery(previous_state.shape, previous_state.dtype)


def test_a_user_s_operation_keeps_its_pipeline_on_the_cpu(gpu, files, monkeypatch, caplog):
    gpu()
    monkeypatch.setattr(ToDevice, "apply", lambda self, batch, spec: batch.clone())
    own = [IntDecoder(), AddOne(), ToTensor(), ToDevice(0), Squeeze(1)]
    with caplog.at_level(logging.WARNING):
        loader = Loader(files[0.4], 8, pipelines=pipelines(label=own), **SETTINGS)
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning == "pipeline 'label' runs on the CPU, and its result is uploaded, because of AddOne()"
    expected = on_cpu(files[0.4], pipelines(None))
    labels = torch.cat([batch[1] for batch in loader])
    assert torch.equal(labels, torch.cat([batch[1] for batch in expected]) + 1)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, make_photo):
    """A file of other images than 3 x 8 bits, and boxes."""
    fields = {"image": RGBImageField(), "mask": MaskField(), "rgba": ImageField(4)}
    fields |= {"deep": ImageField(1, "uint16"), "boxes": RaggedField("float32", 4)}
    rows = []
    for k in range(9):
        photo = make_photo(40 + k, 50, k)
        rgba = np.concatenate([photo, 255 - photo[..., :1]], axis=2)
        boxes = np.full((k % 3, 4), k, np.float32)
        rows.append((photo, photo[..., 0] // 64, rgba, photo[..., 1] * np.uint16(257), boxes))
    path = tmp_path_factory.mktemp("kinds") / "kinds.beton"
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(rows)
    return path


def of_kinds(*last):
    crop, flip = RandomResizedCropRGBImageDecoder((16, 20)), RandomHorizontalFlip()
    made = {name: [crop, flip, ToTensor(), *last] for name in ("image", "mask", "rgba", "deep")}
    made["rgba"] += [ToTorchImage(), NormalizeImage([1, 2, 3, 4], [5, 6, 7, 8], np.float16)]
    return made | {"boxes": [BoxDecoder("image"), ToTensor(), *last]}


@pytest.mark.parametrize("os_cache", [True, False], ids=["mapped", "pread"])
def test_other_kinds_of_image_on_the_gpu_or_uploaded(gpu, kinds, monkeypatch, caplog, os_cache):
    fake = gpu()
    monkeypatch.setattr(ToDevice, "apply", lambda self, batch, spec: batch.clone())
    with caplog.at_level(logging.WARNING):
        loader = Loader(kinds, 4, pipelines=of_kinds(ToDevice(0)), os_cache=os_cache, **SETTINGS)
    said = [
        record.getMessage().partition(" runs on the CPU, and its result is uploaded")
        for record in caplog.records
    ]
    assert [name for name, _, _ in said] == ["pipeline 'deep'", "pipeline 'boxes'"]
    assert said[0][2].startswith(", because of ImageField(channels=1, dtype='uint16'")
    found, expected = kept(fake, loader), on_cpu(kinds, of_kinds(), batch_size=4)
    same([batch[:4] for batch in found], [batch[:4] for batch in expected])
    same([batch[4] for batch in found], [batch[4] for batch in expected])


# ---- memory and its lifetime


def test_a_kept_batch_stays_valid_and_a_dropped_one_is_used_again(gpu, files):
    fake = gpu()
    loader = Loader(files[1.0], 4, pipelines=pipelines(), batches_ahead=2, **SETTINGS)
    expected = on_cpu(files[1.0], pipelines(None), batch_size=4, epochs=3)
    read = []
    for _ in range(3):
        for images, *_ in loader:
            target = torch.empty_like(images)
            read.append(target)
            # the consumer's stream uses the batch later than Python drops it
            fake.owner.consumer.submit(lambda target=target, images=images: target.copy_(images))
    fake.owner.consumer.synchronize()
    for target, batch in zip(read, expected, strict=True):
        assert torch.equal(target, batch[0])


class Hasty(FakeEvent):
    """An event that is never waited for."""

    def synchronize(self):
        pass


@pytest.mark.parametrize("share", [0.0, 1.0], ids=["pixels", "jpegs"])
def test_without_the_wait_an_arena_is_overwritten_too_early(gpu, files, share):
    """The guards of a slot are needed: without them batches are wrong, or launch blocks garbage."""
    fake = gpu()
    fake.owner.new_event = lambda: Hasty(fake.owner.streams)
    loader = Loader(files[share], 4, pipelines=pipelines(), **SETTINGS)
    expected = on_cpu(files[share], pipelines(None), batch_size=4, epochs=2)
    try:
        batches = kept(fake, loader, epochs=2)
        right = all(torch.equal(a[0], b[0]) for a, b in zip(batches, expected, strict=True))
    except (ValueError, ArithmeticError):  # the kernel got garbage for arguments
        right = False
    assert not right
    fake.nvjpeg.mistakes.clear()


def test_steady_state_allocates_nothing(gpu, files):
    fake = gpu()
    loader = Loader(files[1.0], 8, pipelines=pipelines(), drop_last=True, seed=1, num_workers=2)
    for _ in loader:
        pass
    before = fake.owner.allocated
    for _ in range(5):
        for _ in loader:
            pass
    assert fake.owner.allocated == before


def test_loaders_share_slots_handles_and_backend(gpu, files):
    fake = gpu()
    one, two = (Loader(files[1.0], 8, pipelines=pipelines(), **SETTINGS) for _ in range(2))
    pairs = list(zip(one, two, strict=True))
    fake.owner.consumer.synchronize()
    same([a for a, _ in pairs], [b for _, b in pairs])
    assert len(fake.device.backends) == 1
    assert fake.device._made <= fake.device.slots


def test_a_loader_that_nobody_reads_does_not_stop_another(gpu, files):
    gpu()
    idle = Loader(files[1.0], 4, pipelines=pipelines(), **SETTINGS)
    waiting = iter(idle)
    next(waiting)
    busy = Loader(files[1.0], 4, pipelines=pipelines(), **SETTINGS)
    for _ in range(3):
        assert sum(1 for _ in busy) == len(busy)
    assert sum(1 for _ in waiting) == len(idle) - 1


def test_a_batch_larger_than_the_limit_is_worked_on_in_parts(gpu, files):
    fake = gpu()
    loader = Loader(files[0.4], 16, pipelines=pipelines(), gpu_memory_gb=0.0003, **SETTINGS)
    same(kept(fake, loader), on_cpu(files[0.4], pipelines(None), batch_size=16))
    assert fake.launches.launched > 2 * len(loader)
    arenas = [slot.arena.size_bytes for slot in fake.device._free]
    assert max(arenas) <= 1.3 * 0.0003e9 / 3


def test_a_sample_larger_than_the_limit_says_which_and_what_to_do(gpu, files):
    gpu()
    loader = Loader(files[0.4], 4, pipelines=pipelines(), gpu_memory_gb=0.00001, **SETTINGS)
    with pytest.raises(OutOfGpuMemory, match=r"sample \d+ takes .* MB on cuda:0.*raise gpu_memory_gb= above"):
        list(loader)


def test_a_full_gpu_says_what_was_asked_and_what_to_do(gpu, files):
    gpu(total=1_000_000)
    loader = Loader(files[0.4], 41, pipelines=pipelines(), gpu_memory_gb=1, **SETTINGS)
    with pytest.raises(OutOfGpuMemory, match=r"cuda:0: no room for [\d.]+ MB .*: lower gpu_memory_gb="):
        list(loader)
    assert not [t for t in threading.enumerate() if t.name.startswith("ffcv_gpu-worker")]


@pytest.mark.parametrize("value", [0, -1.0])
def test_a_limit_of_nothing_is_refused(files, value):
    with pytest.raises(PipelineError, match="gpu_memory_gb"):
        Loader(files[0.4], 4, gpu_memory_gb=value)


def test_early_ends_leave_nothing(gpu, files):
    fake = gpu()
    loader = Loader(files[1.0], 4, pipelines=pipelines(), **SETTINGS)
    for _ in range(30):
        for _ in loader:
            break
    gc.collect()
    assert sum(t.name.startswith("ffcv_gpu-worker") for t in threading.enumerate()) == 0
    assert sum(1 for _ in loader) == len(loader)
    assert fake.device._made == len(fake.device._free) <= 3


# ---- errors


def place_of(path, sample):
    beton = open_beton(path)
    return int(beton.offsets("image")[sample]), int(beton.lengths("image")[sample])


def stored(path, sample):
    """The bytes of one sample's image."""
    offset, length = place_of(path, sample)
    return path.read_bytes()[offset : offset + length]


def damage(path, tmp_path, sample=5, share=0.5):
    """A copy of the file with wrong bytes `share` of the way into one sample's JPEG."""
    offset, length = place_of(path, sample)
    data, at = bytearray(path.read_bytes()), offset + int(share * length)
    data[at : at + 40] = b"no JPEG." * 5
    target = tmp_path / "damaged.beton"
    target.write_bytes(data)
    return target


def test_damage_is_noticed_by_the_checksum(gpu, files, tmp_path):
    gpu()
    loader = Loader(damage(files[1.0], tmp_path), 8, pipelines=pipelines(), **SETTINGS)
    with pytest.raises(
        ReadError, match=r"damaged.beton: sample 5, field 'image': payload of \d+ bytes at byte"
    ):
        list(loader)


def test_an_image_that_no_decoder_takes_is_named(gpu, files, tmp_path, monkeypatch):
    """As in a file of FFCV's, which has no checksums."""
    gpu()
    monkeypatch.setattr("ffcv_gpu.loader.intake.corrupt_rows", lambda staged: [])
    loader = Loader(damage(files[1.0], tmp_path, share=0), 8, pipelines=pipelines(), **SETTINGS)
    with pytest.raises(DecodeError, match=r"sample 5, field 'image': payload .* that nvjpeg cannot decode: "):
        list(loader)


def test_one_bad_image_costs_no_other_its_pixels(gpu, files):
    """The batched call fails as a whole; each of its images is tried again on its own."""
    fake = gpu()
    loader = Loader(files[1.0], 8, pipelines=pipelines(), **SETTINGS)
    fake.nvjpeg.bad_image(stored(files[1.0], 5))
    same(kept(fake, loader), on_cpu(files[1.0], pipelines(None)))
    counts = loader.stats().counts
    assert counts["jpeg: failed batches"] == counts["jpeg: cpu, uploaded"] == 1
    assert counts["jpeg: one by one, cpu huffman"] == 7 and counts["jpeg: engine"] == N - 8


def test_an_image_that_is_skipped_in_silence_is_found_in_paranoid_mode(gpu, files):
    fake = gpu()
    loader = Loader(files[1.0], 8, pipelines=pipelines(), paranoid=True, **SETTINGS)
    fake.nvjpeg.skip_image(stored(files[1.0], 5))
    same(kept(fake, loader), on_cpu(files[1.0], pipelines(None)))
    assert loader.stats().counts["jpeg: skipped in silence"] >= 1


def test_without_nvjpeg_the_loader_is_not_made(gpu, files, monkeypatch):
    gpu()

    def missing():
        raise BackendUnavailable("nvJPEG not found. Looked for ...")

    monkeypatch.setattr(nvjpeg_library, "library", missing)
    with pytest.raises(BackendUnavailable, match="nvJPEG not found"):
        Loader(files[1.0], 8, pipelines=pipelines())
    # a file without JPEGs needs none
    assert len(list(Loader(files[0.0], 8, pipelines=pipelines(), **SETTINGS))) == 6


def test_backend_names(gpu, files):
    gpu()
    with pytest.raises(
        PipelineError, match="jpeg_backend must be None, 'turbo', 'turbo3' or 'nvjpeg', not 'dali'"
    ):
        Loader(files[1.0], 8, pipelines=pipelines(), jpeg_backend="dali")
    with pytest.raises(PipelineError, match="no pipeline runs on one"):
        Loader(files[1.0], 8, pipelines=pipelines(None), jpeg_backend="nvjpeg")


def test_device_argument_overrides_the_pipelines(gpu, files):
    fake = gpu()
    loader = Loader(files[0.4], 8, pipelines=pipelines(None), device="cuda:0", **SETTINGS)
    same(kept(fake, loader), on_cpu(files[0.4], pipelines(None)))
    assert fake.launches.launched
    back = Loader(files[0.4], 8, pipelines=pipelines(0), device="cpu", **SETTINGS)
    launched = fake.launches.launched
    same(list(back), on_cpu(files[0.4], pipelines(None)))
    assert fake.launches.launched == launched


# ---- launches that are not the fused one


def coloured(device, *steps):
    there = [ToDevice(0)] if device is not None else []
    head = [RandomResizedCropRGBImageDecoder((24, 28)), RandomHorizontalFlip()]
    tail = [ToTensor(), *there, ToTorchImage(), NormalizeImage(MEAN, STD, np.float32)]
    return pipelines(device, image=[*head, *steps, *tail])


COLOURS = {
    "pointwise": lambda: [RandomBrightness(0.4, 1.0), RandomSaturation(0.4, 1.0), Cutout(7, (9, 8, 7))],
    "contrast": lambda: [RandomBrightness(0.4), RandomContrast(0.5, 1.0)],
    "jitter": lambda: [RandomColorJitter(1.0), RandomGrayscale(0.5), RandomSolarization(0.5)],
    "blur": lambda: [GaussianBlur(0.7, 5), RandomErasing(0.7)],
    "rotate": lambda: [Rotate(0.7, 0.4), RandomHorizontalFlip()],
    "augment": lambda: [RandAugment(3, 9), TrivialAugment()],
}


@pytest.mark.parametrize("kind", COLOURS)
@pytest.mark.parametrize("share", [0.4, 1.0])
def test_colour_blur_and_warps_equal_the_cpu_s(gpu, files, kind, share):
    fake = gpu()
    loader = Loader(files[share], 8, pipelines=coloured(0, *COLOURS[kind]()), **SETTINGS)
    same(kept(fake, loader, epochs=2), on_cpu(files[share], coloured(None, *COLOURS[kind]()), epochs=2))


def test_contrast_measures_on_the_gpu(gpu, files):
    fake = gpu()
    loader = Loader(files[1.0], 8, pipelines=coloured(0, *COLOURS["contrast"]()), **SETTINGS)
    assert sum(1 for _ in loader) == fake.launches.measured == 6


def test_padded_images(gpu, files):
    fake = gpu()

    def padded(device):
        there = [ToDevice(0)] if device is not None else []
        return pipelines(device, image=[PadRGBImageDecoder(), RandomBrightness(0.3), ToTensor(), *there])

    loader = Loader(files[0.4], 8, pipelines=padded(0), **SETTINGS)
    same(kept(fake, loader), on_cpu(files[0.4], padded(None)))


def test_many_launches_in_parts(gpu, files):
    fake = gpu()
    made = coloured(0, *COLOURS["augment"]())
    loader = Loader(files[0.4], 16, pipelines=made, gpu_memory_gb=0.001, **SETTINGS)
    expected = on_cpu(files[0.4], coloured(None, *COLOURS["augment"]()), batch_size=16)
    same(kept(fake, loader), expected)


def test_mixup_and_labels_that_tell_equal_the_cpu_s(gpu, equal_sizes):
    fake = gpu(deferred=False)  # torch computes at once here

    def mixed(device):
        there = [ToDevice(0)] if device is not None else []
        mask = np.full((32, 32, 3), 200.0), np.full((32, 32), 0.5)
        head = [SimpleRGBImageDecoder(), RandomHorizontalFlip(seed=2), Poison(*mask, [1, 5])]
        label = [IntDecoder(), ReplaceLabel([3], 7), LabelMixup(0.5, False), ToTensor(), *there]
        return pipelines(
            device,
            image=[*head, ImageMixup(0.5, False), ToTensor(), *there, ToTorchImage(), Convert(torch.float16)],
            label=[*label, MixupToOneHot(411)],
            flips=PipelineSpec("image", decoder=LabelRandomHorizontalFlip(seed=2), transforms=[ToTensor()]),
        )

    loader = Loader(equal_sizes, 8, pipelines=mixed(0), **SETTINGS)
    same(kept(fake, loader, epochs=2), on_cpu(equal_sizes, mixed(None), epochs=2))
