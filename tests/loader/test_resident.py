"""ResidentLoader: the batches of the streamed loader, from memory, on the CPU and on a fake GPU."""

import contextlib
import threading
import time

import numpy as np
import pytest
import torch

from ffcv_gpu.errors import DecodeError, OutOfGpuMemory, PipelineError, ReadError
from ffcv_gpu.fields import FloatField, ImageField, IntField, MaskField, RGBImageField
from ffcv_gpu.fields.decoders import (
    IntDecoder,
    RandomResizedCropRGBImageDecoder,
    SimpleRGBImageDecoder,
)
from ffcv_gpu.loader import Loader, OrderOption, ResidentLoader
from ffcv_gpu.transforms import (
    Cutout,
    GaussianBlur,
    ImageMixup,
    NormalizeImage,
    RandomContrast,
    RandomHorizontalFlip,
    RandomTranslate,
    Squeeze,
    ToDevice,
    ToTensor,
    ToTorchImage,
)
from ffcv_gpu.writer import DatasetWriter
from tests.small_file import run_program

pytestmark = [pytest.mark.timeout(200), pytest.mark.usefixtures("no_thread_is_left")]

MEAN, STD = np.array([120.0, 110, 100]), np.array([60.0, 61, 62])
CROP = RandomResizedCropRGBImageDecoder((24, 20))


@pytest.fixture(scope="module", params=["raw", "jpg"])
def file(request, tmp_path_factory, make_photo):
    path = tmp_path_factory.mktemp("resident") / "images.beton"
    fields = {"image": RGBImageField(write_mode=request.param), "label": IntField(), "weight": FloatField()}
    samples = [(make_photo(32, 40, seed=k), k, k / 7) for k in range(37)]
    DatasetWriter(path, fields, num_workers=1, progress=False).from_indexed_dataset(samples)
    return path


def pipelines(head=None, dtype=torch.float32, device=None):
    there = [] if device is None else [ToDevice(device)]
    augment = [RandomHorizontalFlip(), RandomTranslate(3, fill=(1, 2, 3)), Cutout(6)]
    image = [head or SimpleRGBImageDecoder(), *augment, ToTensor(), *there, ToTorchImage()]
    return {
        "image": [*image, NormalizeImage(MEAN, STD, dtype)],
        "label": [IntDecoder(), ToTensor(), *there, Squeeze(1)],
    }


def loader_of(path, made, **more):
    settings = {"order": OrderOption.RANDOM, "seed": 5, "drop_last": False, "num_workers": 2, **more}
    return Loader(path, 8, pipelines=made, **settings)


def equal(ones, others):
    assert len(ones) == len(others)
    for one, other in zip(ones, others, strict=True):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
            assert torch.equal(a, b)


@pytest.mark.parametrize("head", [None, CROP], ids=["whole", "cropped"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_same_batches_as_streamed(file, head, dtype):
    made = pipelines(head, dtype)
    streamed = loader_of(file, made)
    resident = ResidentLoader(loader_of(file, made))
    assert len(resident) == len(streamed) == 5 and resident.size_bytes == 37 * 32 * 40 * 3
    assert ResidentLoader.bytes_of(streamed) == resident.size_bytes
    epochs = [[list(loader) for _ in range(2)] for loader in (streamed, resident)]
    for one, other in zip(*epochs, strict=True):
        equal(one, other)
    assert not torch.equal(epochs[0][0][0][0], epochs[0][1][0][0])


def test_a_file_that_was_replaced_is_not_mixed_with_the_one_that_was_opened(tmp_path, monkeypatch):
    def write(level):
        samples = [(np.full((8, 8, 3), level, np.uint8), level)] * 8
        fields = {"image": RGBImageField(), "label": IntField()}
        DatasetWriter(tmp_path / "x.beton", fields, progress=False).from_indexed_dataset(samples)

    write(1)
    monkeypatch.chdir(tmp_path)
    loader = loader_of("x.beton", pipelines())
    write(2)
    monkeypatch.chdir(tmp_path.parent)
    streamed = list(loader)
    loader.set_epoch(0)
    equal(list(ResidentLoader(loader)), streamed)
    assert [labels.tolist() for _, labels in loader.filter("label", lambda label: label == 1)] == [[1] * 8]
    assert loader.reader.metadata["f1"].tolist() == [1] * 8


def test_some_samples_on_two_ranks_and_a_chosen_epoch(file):
    more = {"indices": [30, 4, 4, 17, 9, 21, 36, 0, 1, 2, 3], "world_size": 2, "rank": 1, "drop_last": True}
    streamed, other = (loader_of(file, pipelines(), **more) for _ in range(2))
    resident = ResidentLoader(other)
    assert resident.size_bytes == 10 * 32 * 40 * 3
    for loader in (streamed, resident):
        loader.set_epoch(7)
    equal(list(streamed), list(resident))
    assert other.next_epoch == 8


def test_an_epoch_is_resumed_and_saved_as_the_loader_s_own(file):
    streamed = loader_of(file, pipelines(), seed=None)
    batches = list(streamed)
    half = loader_of(file, pipelines(), seed=streamed.seed)
    running = iter(half)
    next(running), next(running)
    resident = ResidentLoader(loader_of(file, pipelines(), seed=None))
    resident.load_state_dict(half.state_dict())
    running = iter(resident)
    first = next(running)
    assert resident.state_dict() == resident.loader.state_dict() and resident.state_dict()["done"] == 3 * 8
    equal([first, *running], batches[2:])
    equal(list(resident), list(streamed))
    resident.loader.set_epoch(0)
    equal(list(resident.loader), batches)


def test_a_resumed_epoch_with_another_crop_is_warned_of_and_saved(file, caplog):
    saved = loader_of(file, pipelines(CROP))
    next(iter(saved))
    crop = RandomResizedCropRGBImageDecoder((24, 20))
    resident = ResidentLoader(loader_of(file, pipelines(crop)))
    crop.scale = (0.5, 1)
    resident.load_state_dict(saved.state_dict())
    running = iter(resident)
    (said,) = caplog.messages
    assert "epoch 0 is resumed with another pipeline for 'image'" in said and "scale=(0.5, 1)" in said
    next(running)
    assert "scale=(0.5, 1)" in resident.state_dict()["pipelines"]["image"]


@pytest.mark.parametrize("device", [None, 0], ids=["cpu", "gpu"])
def test_another_crop_and_later_step_count_from_the_next_epoch_on(file, gpu, device):
    fake = gpu()
    crops = [RandomResizedCropRGBImageDecoder((24, 20)) for _ in range(2)]
    streamed = loader_of(file, pipelines(crops[0]))
    resident = ResidentLoader(loader_of(file, pipelines(crops[1], device=device), batches_ahead=1))
    for scale in ((0.9, 1.0), (0.1, 0.2)):
        running, expected = iter(resident), list(streamed)
        crops[0].scale = crops[1].scale = scale
        for loader in (streamed, resident.loader):
            loader.pipelines["label"].append(torch.nn.Identity())
        batches = list(running)
        fake.owner.consumer.synchronize()
        equal(batches, expected)


@pytest.mark.parametrize("device", [None, 0], ids=["cpu", "gpu"])
def test_outputs_that_are_not_made_as_before_are_refused(file, gpu, device):
    gpu()
    crop = RandomResizedCropRGBImageDecoder((24, 20))
    resident = ResidentLoader(loader_of(file, pipelines(crop, device=device)))
    crop.output_size = (12, 10)
    words = r"images.beton: output 'image' changed after this ResidentLoader was made; create a new"
    with pytest.raises(PipelineError, match=words):
        iter(resident)
    crop.output_size = (24, 20)
    resident.loader.pipelines["image"].insert(1, RandomTranslate(1))
    with pytest.raises(PipelineError, match=words):
        iter(resident)
    resident.loader.pipelines["image"].pop(1)
    assert len(list(resident)) == 5


def test_larger_batches_than_a_gpu_has_room_for_are_refused(file, gpu):
    fake = gpu()
    streamed = loader_of(file, pipelines())
    there, here = (ResidentLoader(loader_of(file, pipelines(device=device))) for device in (0, None))
    for loader in (streamed, there.loader, here.loader):
        loader.batch_size = 5
    batches, expected = list(there), list(streamed)
    fake.owner.consumer.synchronize()
    equal(batches, expected)
    for loader in (streamed, there.loader, here.loader):
        loader.batch_size = 37
        loader.set_epoch(0)
    equal(list(here), list(streamed))
    with pytest.raises(PipelineError, match=r"batch_size \(37, was 8\) changed after this ResidentLoader"):
        iter(there)


def test_a_running_epoch_keeps_the_seed_it_was_begun_with(file):
    streamed, other = (loader_of(file, pipelines(), seed=seed) for seed in (5, 6))
    resident = ResidentLoader(loader_of(file, pipelines(), seed=None, batches_ahead=1))
    resident.load_state_dict(streamed.state_dict())
    running = iter(resident)
    first = next(running)
    resident.load_state_dict(other.state_dict())
    equal([first, *running], list(streamed))
    equal(list(resident), list(other))


@pytest.mark.parametrize("device", [None, 0], ids=["cpu", "gpu"])
def test_kept_batches_and_abandoned_epochs(file, gpu, device):
    fake = gpu()
    resident = ResidentLoader(loader_of(file, pipelines(device=device)))
    for _ in range(3):
        next(iter(resident))
    resident.loader.set_epoch(0)
    kept = list(resident)
    for _ in range(2):
        list(resident)
    fake.owner.consumer.synchronize()
    equal(kept, list(loader_of(file, pipelines())))


@pytest.mark.parametrize("device", [None, 0], ids=["cpu", "gpu"])
def test_epochs_side_by_side(file, gpu, device):
    fake = gpu()
    resident = ResidentLoader(loader_of(file, pipelines(CROP, device=device)))
    pairs = list(zip(resident, resident, strict=True))
    fake.owner.consumer.synchronize()
    streamed = loader_of(file, pipelines(CROP))
    for number in range(2):
        equal([pair[number] for pair in pairs], list(streamed))


@pytest.mark.parametrize("device", [None, 0], ids=["cpu", "gpu"])
def test_a_few_batches_are_made_ahead_and_no_more(file, gpu, device, monkeypatch):
    gpu()
    resident = ResidentLoader(loader_of(file, pipelines(device=device), batches_ahead=2))
    begun, begin = [], type(resident._makers[-1]).begin
    monkeypatch.setattr(
        type(resident._makers[-1]),
        "begin",
        lambda self, plan, *more: begun.append(plan.index) or begin(self, plan, *more),
    )
    running = iter(resident)
    assert len(running) == 5
    for handed in range(3):
        before = time.monotonic()
        while len(begun) < min(handed + 3, 5):  # without anybody asking for them
            assert time.monotonic() < before + 30
            time.sleep(0.001)
        time.sleep(0.02)
        assert len(begun) <= handed + 3
        next(running)
    resident.close()
    assert list(running) == []
    assert resident.state_dict()["done"] == 3 * 8  # what was made ahead is not done
    assert resident.loader.stats().stages["wait"].calls == 4  # the last one for nothing


@pytest.mark.parametrize(("device", "stage"), [(None, "compose"), (0, "launch")], ids=["cpu", "gpu"])
def test_a_profile_of_the_loader_shows_the_stages(file, gpu, device, stage):
    gpu()
    resident = ResidentLoader(loader_of(file, pipelines(device=device)))
    with resident.loader.profile() as profile:
        assert len(list(resident)) == 5
    assert {name: time.items for name, time in profile.stats().stages.items() if time.items} == {
        "plan": 37, stage: 37, "finish": 37,
    }  # fmt: skip
    assert "nothing was loaded" not in profile.bottleneck


@pytest.mark.parametrize("label_there", [True, False], ids=["label too", "label stays"])
def test_same_batches_on_a_gpu(file, gpu, label_there):
    fake = gpu()
    made = pipelines(CROP, torch.float16, device=0)
    made["weight"] = None
    if not label_there:
        made["label"] = [IntDecoder(), ToTensor(), Squeeze(1)]
    streamed = [*loader_of(file, pipelines(CROP, torch.float16) | {"weight": None})]
    resident = ResidentLoader(loader_of(file, made))
    for loader in (resident, resident):
        loader.loader.set_epoch(0)
        batches = list(loader)  # read only at the very end: work on the GPU waits until then
        fake.owner.consumer.synchronize()
        equal(batches, streamed)
    launches = fake.launches.launched
    held = fake.owner.allocated
    list(resident)
    assert fake.launches.launched == launches + 5  # one a batch
    assert fake.owner.allocated == held  # and no memory


def test_a_batch_of_one_sample_many_times_on_a_gpu(file, gpu):
    fake = gpu()
    rows = [5] * 6 + [7] * 7
    resident = ResidentLoader(loader_of(file, pipelines(CROP, torch.float16, device=0), indices=rows))
    batches = list(resident)
    fake.owner.consumer.synchronize()
    equal(batches, [*loader_of(file, pipelines(CROP, torch.float16), indices=rows)])


def test_what_four_channels_and_one_take(tmp_path):
    fields = {"image": ImageField(4), "mask": MaskField(), "label": IntField()}
    samples = [(np.zeros((8, 10, 4), np.uint8), np.zeros((8, 10), np.uint8), k) for k in range(6)]
    DatasetWriter(tmp_path / "x.beton", fields, num_workers=1).from_indexed_dataset(samples)
    made = {name: [SimpleRGBImageDecoder(), ToTensor()] for name in ("image", "mask")}
    loader = loader_of(tmp_path / "x.beton", made)
    assert ResidentLoader.bytes_of(loader) == ResidentLoader(loader).size_bytes == 6 * 8 * 10 * 5


class Fails(torch.nn.Module):
    def forward(self, batch):
        raise ValueError("mine")


class FailsLater(torch.nn.Module):
    """Lets two batches pass."""

    left = 2

    def forward(self, batch):
        self.left -= 1
        if self.left < 0:
            raise ValueError("mine")
        return batch


@pytest.mark.parametrize("device", [None, 0], ids=["cpu", "gpu"])
def test_an_exception_comes_behind_the_batches_before_it(file, gpu, device):
    gpu()
    there = [] if device is None else [ToDevice(device)]
    made = pipelines(device=device)
    resident = ResidentLoader(
        loader_of(file, {**made, "image": [CROP, ToTensor(), *there, FailsLater()]}, batches_ahead=4)
    )
    running = iter(resident)
    first = [next(running), next(running)]
    with pytest.raises(ValueError, match="mine") as caught:
        next(running)
    assert any("batch 2 of epoch 0" in note for note in caught.value.__notes__)
    assert len(first) == 2 and list(running) == [] and resident.state_dict()["done"] == 2 * 8


def test_a_forked_child_begins_epochs_of_its_own(tmp_path, make_photo):
    path = tmp_path / "x.beton"
    writer = DatasetWriter(path, {"image": RGBImageField(), "label": IntField()}, num_workers=1)
    writer.from_indexed_dataset([(make_photo(8, 8, seed=k), k) for k in range(9)])
    result = run_program(
        f"""
        from ffcv_gpu.loader import ResidentLoader
        made = ResidentLoader(Loader({str(path)!r}, 2, num_workers=2, drop_last=False))
        running = iter(made)
        next(running)
        made._makers[0]._slots._lock.acquire()  # as a thread of the parent may just do
        child = os.fork()
        if child == 0:
            try:
                next(running)
            except ValueError as error:
                print(str(error)[:41], flush=True)
            print([int(v) for batch in made for v in batch[1][:, 0]] == list(range(9)), flush=True)
            sys.exit(0)
        made._makers[0]._slots._lock.release()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 1 + sum(1 for _ in running) == len(made))
        """
    )
    assert result.returncode == 0, result.stderr
    expected = ["this epoch was started by another process", "True", "0 True"]
    assert result.stdout.splitlines() == expected, result.stderr


def test_an_exception_in_a_step_says_where(file):
    made = {**pipelines(), "image": [CROP, ToTensor(), Fails()]}
    with pytest.raises(ValueError, match="mine") as caught:
        list(ResidentLoader(loader_of(file, made)))
    assert any("pipeline 'image'" in note and "Fails" in note for note in caught.value.__notes__)


def test_steps_behind_the_launch(file):
    image = [CROP, ToTensor(), ImageMixup(0.5, same_lambda=True), ToTorchImage()]
    streamed, resident = (loader_of(file, {**pipelines(), "image": image}) for _ in range(2))
    equal(list(streamed), list(ResidentLoader(resident)))


def test_what_needs_more_than_a_launch_is_refused(file):
    for step in (RandomContrast(0.5, 1.0), GaussianBlur(1.0)):
        made = {"image": [SimpleRGBImageDecoder(), step, ToTensor()]}
        with pytest.raises(PipelineError, match="'image' cannot be made from memory"):
            ResidentLoader(loader_of(file, made))
    with pytest.raises(PipelineError, match="takes a Loader, not PosixPath"):
        ResidentLoader(file)


def test_images_of_several_sizes_are_refused(tmp_path, make_photo):
    samples = [(make_photo(32, 40 + k, seed=k), k) for k in range(4)]
    writer = DatasetWriter(
        tmp_path / "x.beton", {"image": RGBImageField(), "label": IntField()}, num_workers=1
    )
    writer.from_indexed_dataset(samples)
    with pytest.raises(PipelineError, match="size"):
        ResidentLoader(loader_of(tmp_path / "x.beton", {"image": [CROP, ToTensor()]}))


def test_a_gpu_that_is_too_small(file, gpu):
    gpu(total=60_000)
    with pytest.raises(OutOfGpuMemory, match="MB on the GPU"):
        ResidentLoader(loader_of(file, pipelines(device=0)))


def test_what_fits(file, gpu, monkeypatch):
    loader = loader_of(file, pipelines())
    needed = ResidentLoader.bytes_of(loader)
    monkeypatch.setattr("ffcv_gpu.loader.resident.available_bytes", lambda: 4 * needed)
    assert ResidentLoader.fits(loader) and not ResidentLoader.fits(loader, 0.24)
    monkeypatch.setattr("ffcv_gpu.loader.resident.available_bytes", lambda: needed - 1)
    with pytest.raises(PipelineError, match="of the host's memory are free"):
        ResidentLoader(loader)
    monkeypatch.undo()
    gpu(total=3 * needed)
    there = loader_of(file, pipelines(device=0), jpeg_backend="turbo")
    assert not ResidentLoader.fits(there) and ResidentLoader.fits(there, 0.34)


def test_a_damaged_sample_is_named(tmp_path, make_photo):
    path = tmp_path / "x.beton"
    writer = DatasetWriter(path, {"image": RGBImageField(), "label": IntField()}, num_workers=1)
    writer.from_indexed_dataset([(make_photo(32, 40, seed=k), k) for k in range(4)])
    data = bytearray(path.read_bytes())
    offset = int(Loader(path, 1).dataset.payloads("image").offsets[2])
    data[offset + 50] ^= 255
    path.write_bytes(data)
    with pytest.raises((DecodeError, ReadError), match="sample 2"):
        ResidentLoader(loader_of(path, {"image": [CROP, ToTensor()]}, on_error="blank"))


@pytest.mark.parametrize("kind", [Loader, ResidentLoader], ids=["streamed", "resident"])
def test_threads_that_start_epochs_at_once_get_different_ones(file, monkeypatch, kind):
    made, together = loader_of(file, pipelines()), threading.Barrier(2)
    loader, real, epochs = made if kind is Loader else kind(made), Loader._coming_epoch, []

    def coming(self):
        found = real(self)
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.5)
        return found

    def start():
        running = iter(loader)
        epochs.append(running._progress.epoch)
        running.close()

    monkeypatch.setattr(Loader, "_coming_epoch", coming)
    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(epochs) == [0, 1]
