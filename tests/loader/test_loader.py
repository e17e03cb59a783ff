"""The whole way on the CPU: a file is written, loaded, and compared with libraries we did not write."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import simplejpeg
import torch

from ffcv_gpu.device import CpuDevice, lane_count, least_reading
from ffcv_gpu.errors import BackendUnavailable, PipelineError, ReadError
from ffcv_gpu.fields import BytesField, FloatField, IntField, JSONField, NDArrayField, RGBImageField
from ffcv_gpu.fields.decoders import (
    BytesDecoder,
    CenterCropRGBImageDecoder,
    IntDecoder,
    NDArrayDecoder,
    RandomResizedCropRGBImageDecoder,
    ResizedCropRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.loader import Loader, OrderOption
from ffcv_gpu.loader.weights import LIGHT_BYTES, MOST_IN_FLIGHT, batches_in_flight
from ffcv_gpu.pipeline import PipelineSpec
from ffcv_gpu.transforms import (
    Convert,
    Cutout,
    NormalizeImage,
    RandomHorizontalFlip,
    RandomResizedCrop,
    RandomTranslate,
    Squeeze,
    ToDevice,
    ToTensor,
    ToTorchImage,
)
from ffcv_gpu.writer import DatasetWriter
from tests.mixed_file import SETTINGS, pipelines
from tests.small_file import loader_threads

N = 37
MEAN, STD = np.array([124.0, 117.0, 104.0]), np.array([58.0, 57.0, 57.0])


def photo(index, height, width):
    """A smooth colourful picture that JPEG keeps well."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    waves = [np.sin((x * (c + 1) + y * (3 - c)) / 23 + index) for c in range(3)]
    return ((np.stack(waves, -1) + 1) * 127).astype(np.uint8)


SIZES = [(60 + 7 * (i % 5), 80 - 3 * (i % 7)) for i in range(N)]
PHOTOS = [photo(i, *SIZES[i]) for i in range(N)]
JPEGS = [
    simplejpeg.encode_jpeg(p, 92, colorsubsampling="444" if i % 3 else "420") for i, p in enumerate(PHOTOS)
]


class Mixed:
    """Sample i: JPEG bytes if i is even, else pixels; label; score; vector; text; document."""

    def __len__(self):
        return N

    def __getitem__(self, i):
        image = JPEGS[i] if i % 2 == 0 else PHOTOS[i]
        vector = np.arange(6, dtype=np.float32).reshape(2, 3) * i
        return image, i * 10, i / 7, vector, np.frombuffer(b"x" * (i % 5), np.uint8), {"i": i}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    path = tmp_path_factory.mktemp("loader") / "mixed.beton"
    fields = {
        "image": RGBImageField(),
        "label": IntField(),
        "score": FloatField(),
        "vector": NDArrayField(np.dtype("float32"), (2, 3)),
        "text": BytesField(),
        "doc": JSONField(),
    }
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(Mixed())
    return path


def true_pixels(i):
    return simplejpeg.decode_jpeg(JPEGS[i]) if i % 2 == 0 else PHOTOS[i]


def only(image, **more):
    return {
        "image": image,
        "label": [IntDecoder()],
        "score": None,
        "vector": None,
        "text": None,
        "doc": None,
        **more,
    }


@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("batch_size", [1, 8, 64])
def test_every_field_comes_back(mixed, os_cache, batch_size):
    loader = Loader(mixed, batch_size, os_cache=os_cache, drop_last=False, num_workers=2,
                    pipelines={"image": [CenterCropRGBImageDecoder((32, 32), 1.0)]})  # fmt: skip
    assert len(loader) == -(-N // batch_size)
    rows = 0
    for image, label, score, vector, text, doc in loader:
        ids = np.arange(rows, rows + len(image))
        rows += len(image)
        assert image.shape == (len(ids), 32, 32, 3) and image.dtype == np.uint8
        assert (
            label.dtype == torch.int64
            and label.shape == (len(ids), 1)
            and label[:, 0].tolist() == (ids * 10).tolist()
        )
        assert score.dtype == torch.float64 and np.allclose(score[:, 0].numpy(), ids / 7)
        assert np.array_equal(
            vector.numpy(), np.arange(6, dtype=np.float32).reshape(2, 3) * ids[:, None, None]
        )
        assert [bytes(t.numpy()).rstrip(b"\0") for t in text] == [b"x" * (i % 5) for i in ids]
        assert JSONField.unpack(doc) == [{"i": int(i)} for i in ids]
    assert rows == N


def test_pixels_equal_decode_then_opencv(mixed):
    loader = Loader(mixed, N, pipelines=only([CenterCropRGBImageDecoder((40, 48), 0.9)]))
    images, _ = next(iter(loader))
    for i in range(N):
        height, width = SIZES[i]
        side = int(0.9 * min(height, width))
        y, x = (height - side) // 2, (width - side) // 2
        expected = cv2.resize(
            true_pixels(i)[y : y + side, x : x + side], (48, 40), interpolation=cv2.INTER_AREA
        )
        assert np.abs(images[i].astype(int) - expected).max() <= 1


def test_fused_equals_step_by_step(mixed):
    decoder, flip = RandomResizedCropRGBImageDecoder((24, 28)), RandomHorizontalFlip()
    begin = [flip, RandomTranslate(4, (5, 6, 7)), Cutout(7, (200, 0, 3))]
    tensor = [*begin, ToTensor()]
    norms = {t: NormalizeImage(MEAN, STD, t) for t in ("float32", "float16", "bfloat16")}
    pipelines = only(
        [decoder, *tensor, ToTorchImage(channels_last=False), norms["float32"]],
        plain=PipelineSpec("image", decoder, begin),
        half=PipelineSpec("image", decoder, [*tensor, ToTorchImage(), norms["float16"]]),
        brain=PipelineSpec("image", decoder, [*tensor, norms["bfloat16"]]),
        module=PipelineSpec(
            "image", decoder, [*tensor, ToTorchImage(), Convert(torch.float32), torch.nn.ReLU()]
        ),
    )
    image, _, plain, half, brain, module = next(iter(Loader(mixed, N, pipelines=pipelines, seed=5)))
    exact = (plain.astype(np.float64) - MEAN) / STD
    assert image.is_contiguous() and image.shape == (N, 3, 24, 28)
    assert np.array_equal(image.numpy().transpose(0, 2, 3, 1), exact.astype(np.float32))
    assert half.dtype == torch.float16 and half.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(half.numpy().transpose(0, 2, 3, 1), exact.astype(np.float16))
    assert brain.dtype == torch.bfloat16 and torch.equal(
        brain, torch.from_numpy(exact.astype(np.float32)).bfloat16()
    )
    assert torch.equal(module, torch.from_numpy(plain.transpose(0, 3, 1, 2).astype(np.float32)))
    assert (plain == np.array([200, 0, 3])).all(-1).sum() >= N * 20


def test_erasing_after_normalisation_writes_the_fill_itself(mixed):
    pipelines = only(
        [
            CenterCropRGBImageDecoder((20, 20), 1.0),
            NormalizeImage(MEAN, STD, np.float32),
            Cutout(6, (0.5, -1.25, 9)),
        ]
    )
    images, _ = next(iter(Loader(mixed, N, pipelines=pipelines)))
    assert ((images == np.array([0.5, -1.25, 9], np.float32)).all(-1).sum(axis=(1, 2)) == 36).all()


def test_two_resamplings_equal_opencv_twice(mixed):
    pipelines = only(
        [
            CenterCropRGBImageDecoder((50, 50), 1.0),
            RandomResizedCrop((1, 1), (1, 1), 21),
            RandomHorizontalFlip(1.0),
        ]
    )
    images, _ = next(iter(Loader(mixed, N, pipelines=pipelines)))
    once = next(iter(Loader(mixed, N, pipelines=only([CenterCropRGBImageDecoder((50, 50), 1.0)]))))[0]
    for got, first in zip(images, once, strict=True):
        expected = cv2.resize(first, (21, 21), interpolation=cv2.INTER_AREA)[:, ::-1]
        assert np.abs(got.astype(int) - expected).max() <= 1


def test_random_order_is_numpys_permutation(mixed):
    loader = Loader(mixed, 5, order=OrderOption.RANDOM, seed=9, drop_last=False, pipelines=only(None))
    for number in range(3):
        labels = np.concatenate([b[0][:, 0] for b in loader])
        assert labels.tolist() == (np.random.default_rng(9 + number).permutation(N) * 10).tolist()


def test_indices_and_quasi_random(mixed):
    indices = [30, 2, 2 + 1, 17, 8]
    loader = Loader(mixed, 2, indices=indices, drop_last=False, pipelines=only(None))
    assert [int(v) // 10 for b in loader for v in b[0][:, 0]] == indices and len(loader) == 3
    quasi = Loader(
        mixed, 2, indices=indices, order=OrderOption.QUASI_RANDOM, drop_last=False, pipelines=only(None)
    )
    assert sorted(int(v) // 10 for b in quasi for v in b[0][:, 0]) == sorted(indices)


def test_kept_batches_stay_what_they_were(mixed):
    loader = Loader(
        mixed,
        3,
        seed=0,
        pipelines=only([CenterCropRGBImageDecoder((30, 30), 1.0), ToTensor(), ToTorchImage()]),
    )
    kept, copies = [], []
    for _ in range(4):
        for images, _ in loader:
            kept.append(images[1:, :, ::2])
            copies.append(images[1:, :, ::2].clone())
    assert all(torch.equal(a, b) for a, b in zip(kept, copies, strict=True))


@pytest.mark.usefixtures("single_batches")
def test_memory_is_used_again_once_let_go(mixed):
    loader = Loader(mixed, 4, pipelines=only([CenterCropRGBImageDecoder((64, 64), 1.0), ToTensor()]))
    addresses = {images.data_ptr() for _ in range(10) for images, _ in loader}
    in_flight = min(loader.num_workers + 2, MOST_IN_FLIGHT)  # light batches; one more is being handed over
    assert len(addresses) <= in_flight + loader.batches_ahead + 2  # and the consumer has one


def test_light_batches_beside_a_gpu_are_as_many_as_it_has_slots(mixed):
    """More would wait for a slot, and keep outputs in the GPU's memory."""
    loader = Loader(mixed, 4, 8, pipelines=only([CenterCropRGBImageDecoder((64, 64), 1.0)]))
    light = loader._programs, LIGHT_BYTES, 1, 8
    assert batches_in_flight(*light, None) == 10
    assert batches_in_flight(*light, SimpleNamespace(slots=3)) == 3


def test_light_batches_of_which_there_is_one_for_each_worker_are_not_split():
    assert {lane_count(LIGHT_BYTES, workers, least_reading(workers)) for workers in range(1, 65)} == {1}


@pytest.mark.parametrize(("workers", "batches"), [(1, 2), (2, 2), (4, 2), (8, 3), (16, 5), (32, 9), (64, 10)])
def test_where_lanes_are_few_those_of_several_batches_are_queued(mixed, workers, batches):
    """Two for each worker behind the oldest batch, as far as memory goes."""
    loader = Loader(mixed, 4, 8, pipelines=only([CenterCropRGBImageDecoder((64, 64), 1.0)]))
    photographs = 256 * 3 * 500 * 375
    assert batches_in_flight(loader._programs, photographs, 1, workers, None) == batches


def test_epochs_may_run_side_by_side(mixed):
    options = {"order": OrderOption.RANDOM, "seed": 3, "pipelines": only(None)}
    loader, again = Loader(mixed, 4, **options), Loader(mixed, 4, **options)
    both = [(a[0].copy(), b[0].copy()) for a, b in zip(loader, loader, strict=True)]
    for number in range(2):
        assert all(np.array_equal(pair[number], batch[0]) for pair, batch in zip(both, again, strict=True))


def test_progressive_resizing(mixed):
    decoder = RandomResizedCropRGBImageDecoder((16, 16))
    loader = Loader(mixed, 8, pipelines=only([decoder, ToTensor(), ToTorchImage()]))
    assert next(iter(loader))[0].shape == (8, 3, 16, 16)
    decoder.output_size = (24, 20)
    assert next(iter(loader))[0].shape == (8, 3, 24, 20)


class TopHalf(ResizedCropRGBImageDecoder):
    """A crop function of the user's own; `scale` is the share of the height that it leaves."""

    scale = 0.5

    @property
    def get_crop_generator(self):
        return lambda height, width, scale, ratio: (0, 0, int(height * scale), width)


@pytest.mark.parametrize(
    ("decoder", "scale"), [(RandomResizedCropRGBImageDecoder, (0.9, 1.0)), (TopHalf, 0.25)]
)
def test_another_crop_counts_from_the_next_epoch_on(mixed, decoder, scale):
    """Not from some batch of this one, however many are planned ahead."""
    crop, same = decoder((16, 16)), decoder((16, 16))
    loader, again = (
        Loader(mixed, 2, seed=3, batches_ahead=1, pipelines=only([one, ToTensor(), torch.nn.Identity()]))
        for one in (crop, same)
    )
    for _ in range(2):
        running, expected = iter(loader), list(again)
        first = next(running)
        crop.scale = same.scale = scale
        for batch, wanted in zip([first, *running], expected, strict=True):
            assert torch.equal(batch[0], wanted[0])


def test_default_pipelines_give_tensors(mixed):
    batch = next(iter(Loader(mixed, 4, pipelines={"image": None})))
    assert len(batch) == 5 and all(isinstance(value, torch.Tensor) for value in batch)


def test_one_pipeline_list_serves_two_loaders(mixed):
    steps = [CenterCropRGBImageDecoder((16, 16), 1.0), RandomHorizontalFlip(0.0), ToTensor(), Squeeze()]
    first, second = (next(iter(Loader(mixed, 4, pipelines=only(steps))))[0] for _ in range(2))
    assert torch.equal(first, second) and len(steps) == 4


def test_stats_and_explain_name_routes_and_stages(mixed, cpu_decoder):
    loader = Loader(
        mixed, N, pipelines=only([CenterCropRGBImageDecoder((16, 16), 1.0), ToTensor(), torch.nn.Identity()])
    )
    list(loader)
    stats = loader.stats()
    assert stats.counts == {f"jpeg: {cpu_decoder}": 19, "raw: from the file": 18}
    assert {"plan", "read", "check", "decode", "compose", "finish", "wait"} <= set(stats.stages)
    text = loader.explain()
    for word in ("CenterCropRGBImageDecoder", "fused launch 1", "torch module", "51% JPEG", "turbo"):
        assert word in text


def damaged(path, tmp_path, sample, at):
    """A copy of the file with one byte of a sample's payload flipped."""
    from ffcv_gpu.format import open_beton

    beton = open_beton(str(path))
    data = bytearray(path.read_bytes())
    data[int(beton.offsets("image")[sample]) + at] ^= 0x55
    copy = tmp_path / "damaged.beton"
    copy.write_bytes(data)
    return copy


@pytest.mark.usefixtures("no_thread_is_left")
@pytest.mark.parametrize("sample", [4, 5])
@pytest.mark.parametrize("os_cache", [True, False])
def test_a_flipped_byte_is_noticed(mixed, tmp_path, sample, os_cache):
    loader = Loader(
        damaged(mixed, tmp_path, sample, 300),
        4,
        os_cache=os_cache,
        pipelines=only([CenterCropRGBImageDecoder((8, 8), 1.0)]),
    )
    with pytest.raises(ReadError, match=rf"sample {sample}, field 'image'.*checksum"):
        list(loader)
    assert not loader_threads()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"batch_size": 0}, "batch_size must be a whole number >= 1, not 0"),
        ({"batch_size": float("nan")}, "batch_size must be a whole number"),
        ({"batch_size": "four"}, "batch_size must be a whole number"),
        ({"num_workers": None}, "num_workers must be a whole number, not None"),
        ({"seed": 2**64}, "seed must be a whole number >= 0 and <= "),
        ({"seed": -1}, "seed must be"),
        ({"seed": 1.5}, "seed must be"),
        ({"cache_gb": float("inf"), "os_cache": False}, "cache_gb"),
        ({"gpu_memory_gb": float("inf")}, "gpu_memory_gb"),
        ({"batches_ahead": -1}, "batches_ahead"),
        ({"indices": [0, N]}, f"row {N}"),
        ({"indices": []}, "indices"),
        ({"indices": [0.5]}, "indices"),
        ({"order": "random"}, "order"),
        ({"pipelines": {"imgae": [IntDecoder()]}}, "no field 'imgae'"),
        (
            {"pipelines": dict.fromkeys(("image", "label", "score", "vector", "text", "doc"))},
            "every field",
        ),
        ({"pipelines": {"image": [NDArrayDecoder()]}}, "decodes arrays"),
        ({"pipelines": {"image": None, "label": [BytesDecoder()]}}, "byte strings"),
        ({"pipelines": {"image": [SimpleRGBImageDecoder()]}}, "one size"),
        ({"custom_fields": {"nope": IntField}}, "no field 'nope'"),
        ({"jpeg_backend": "magic"}, "jpeg_backend"),
        ({"dct": "float"}, "dct"),
    ],
)
def test_bad_arguments_fail_when_the_loader_is_made(mixed, options, word):
    usable = {"pipelines": only([CenterCropRGBImageDecoder((8, 8), 1.0)])}
    with pytest.raises(PipelineError, match=word):
        Loader(mixed, **{"batch_size": 4, **usable, **options})


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused_unless_auto(mixed, caplog):
    pipelines = only([CenterCropRGBImageDecoder((8, 8), 1.0), ToTensor(), ToDevice(0), ToTorchImage()])
    with pytest.raises(BackendUnavailable, match="cuda:0"):
        Loader(mixed, 4, pipelines=pipelines)
    loader = Loader(mixed, 4, pipelines=pipelines, device="auto")
    assert next(iter(loader))[0].device.type == "cpu"
    assert sum("running on the CPU" in r.message for r in caplog.records) == 1
    assert next(iter(Loader(mixed, 4, pipelines=pipelines, device="cpu")))[0].shape == (4, 3, 8, 8)


def test_code_says_how_each_output_is_made(mixed):
    """FFCV's name for its generated functions; scripts print it."""
    loader = Loader(
        mixed, 4, pipelines=only([CenterCropRGBImageDecoder((8, 8), 1.0), RandomHorizontalFlip()])
    )
    assert list(loader.code) == ["image", "label"]
    assert "RandomHorizontalFlip" in repr(loader.code["image"])


def test_what_trainers_ask_of_a_loader(mixed):
    loader = Loader(mixed, 5, pipelines=only(None))
    assert len(loader) == N // 5 and loader.batch_size == 5 and len(loader.dataset) == N
    for number in range(2):
        assert sum(1 for _ in loader) == len(loader) and loader.next_epoch == number + 1
    loader.set_epoch(9)
    assert loader.state_dict()["epoch"] == 9
    for epoch in (-1, 0.5, 2**32, None):
        with pytest.raises(PipelineError, match="set_epoch: epoch must be a whole number >= 0 and <= "):
            loader.set_epoch(epoch)


@pytest.mark.usefixtures("single_batches")
@pytest.mark.parametrize(("share", "lanes"), [(0.0, {1}), (1.0, {2, 3})])
def test_raw_images_are_passed_to_workers_in_larger_pieces(files, monkeypatch, share, lanes):
    """A lane costs as much as copying a hundred small images, and less than decoding them."""
    monkeypatch.setattr("ffcv_gpu.loader.weights.LIGHT_BYTES", 0)
    monkeypatch.setattr("ffcv_gpu.device.cpu.READING_BYTES_PER_WORKER", 40_000 // SETTINGS["num_workers"])
    monkeypatch.setattr("ffcv_gpu.loader.weights.HERE_BYTES", 0)
    seen, split = set(), CpuDevice.lanes

    def noted(*given):
        found = split(*given)
        seen.add(len(found))
        return found

    monkeypatch.setattr(CpuDevice, "lanes", noted)
    settings = SETTINGS | {"drop_last": True}
    for _ in Loader(files[share], 8, pipelines=pipelines(None), **settings):
        pass
    assert seen and seen <= lanes
