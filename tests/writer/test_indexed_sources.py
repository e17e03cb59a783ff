"""`from_indexed_dataset` accepts the datasets people have: torch, torchvision, Hugging Face, plain lists."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from ffcv_gpu.errors import PipelineError, SampleError
from ffcv_gpu.fields import FloatField, IntField, NDArrayField, RGBImageField, TorchTensorField
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton
from ffcv_gpu.writer import DatasetWriter

N = 12
FIELDS = {"image": RGBImageField("raw"), "label": IntField()}


@pytest.fixture(scope="module")
def pictures(make_photo):
    return [make_photo(30, 40 + k, k) for k in range(N)]


def write(path, dataset, fields=FIELDS, workers=2, **options):
    DatasetWriter(path, fields, MIN_PAGE_SIZE, workers, progress=False).from_indexed_dataset(
        dataset, chunksize=3, **options
    )
    return open_beton(path)


def check(beton, pictures, order=range(N)):
    assert beton.column("label").tolist() == list(order)
    for row, k in enumerate(order):
        begin = int(beton.offsets("image")[row])
        found = beton.data[begin : begin + int(beton.lengths("image")[row])]
        np.testing.assert_array_equal(found.reshape(pictures[k].shape), pictures[k])


class Own(torch.utils.data.Dataset):
    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, k):
        return Image.fromarray(self.pictures[k]), torch.tensor(k)


def test_a_torch_dataset_and_its_subset(pictures, tmp_path):
    dataset = Own(pictures)
    check(write(tmp_path / "a.beton", dataset), pictures)
    subset = torch.utils.data.Subset(dataset, [5, 3, 8, 0])
    check(write(tmp_path / "b.beton", subset), pictures, [5, 3, 8, 0])
    check(write(tmp_path / "c.beton", dataset, indices=[7, 2]), pictures, [7, 2])


class Named(list):
    """Eight numbers, and where each came from."""

    def __init__(self):
        super().__init__((k,) for k in range(8))
        self.source_ids = [f"from {k}" for k in range(8)]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor], ids=["list", "array", "tensor"])
def test_a_subset_keeps_the_source_ids_of_its_samples(tmp_path, kind):
    subset = torch.utils.data.Subset(Named(), kind([5, 3, 0, 6]))
    inner = torch.utils.data.Subset(subset, [2, 0, -1])
    fields = {"x": IntField()}
    found = [write(tmp_path / "a", subset, fields), write(tmp_path / "b", inner, fields)]
    found.append(write(tmp_path / "c", subset, fields, indices=[3, 1]))
    for beton, numbers in zip(found, ([5, 3, 0, 6], [0, 5, 6], [6, 3]), strict=True):
        assert beton.column("x").tolist() == numbers
        assert list(beton.source_ids) == [f"from {k}" for k in numbers]


def test_both_parts_of_a_random_split_keep_their_source_ids(tmp_path):
    seen = []
    for name, part in zip("ab", torch.utils.data.random_split(Named(), [5, 3]), strict=True):
        beton = write(tmp_path / name, part, {"x": IntField()})
        assert list(beton.source_ids) == [f"from {k}" for k in beton.column("x")]
        seen += beton.column("x").tolist()
    assert sorted(seen) == list(range(8))


def test_an_error_names_the_source_in_a_subset(tmp_path):
    with pytest.raises(SampleError, match=r"sample 1 \(dataset\[1\], from 4\)"):
        write(tmp_path / "a", torch.utils.data.Subset(Named(), [3, 4]), {"x": Fails()})


class Fails(IntField):
    def encode(self, destination, value, malloc):
        if value == 4:
            raise SampleError("it is 4")
        super().encode(destination, value, malloc)


@pytest.mark.parametrize("indices", [[0, 1, 2], [0, 9], ["a", "b"], 7, {0: 1}.values])
def test_other_things_that_a_dataset_calls_indices_are_left_alone(tmp_path, indices):
    class Other(list):
        dataset = Named()

    dataset = Other([(1,), (2,)])
    dataset.indices = indices
    assert write(tmp_path / "a", dataset, {"x": IntField()}).source_ids is None


def test_a_torch_dataset_of_tensors(tmp_path):
    dataset = torch.utils.data.TensorDataset(torch.arange(24.0).reshape(6, 4), torch.arange(6) / 2)
    fields = {"x": TorchTensorField(torch.float32, (4,)), "y": FloatField()}
    beton = write(tmp_path / "a.beton", dataset, fields)
    assert beton.column("y").tolist() == [0, 0.5, 1, 1.5, 2, 2.5]
    first = beton.data[beton.offsets("x")[5] :][:16].view(np.float32)
    assert first.tolist() == [20, 21, 22, 23]


def test_torchvisions_image_folder(torchvision, pictures, tmp_path):
    for k, picture in enumerate(pictures):
        folder = tmp_path / "photos" / f"class{k:02d}"
        folder.mkdir(parents=True)
        Image.fromarray(picture).save(folder / "0.png")
    dataset = torchvision.datasets.ImageFolder(tmp_path / "photos")
    assert isinstance(dataset[0][0], Image.Image)
    check(write(tmp_path / "a.beton", dataset), pictures)


def test_plain_lists_of_tuples_and_of_mappings(pictures, tmp_path):
    check(write(tmp_path / "a.beton", list(zip(pictures, range(N), strict=True))), pictures)
    rows = [{"label": k, "unused": None, "image": pictures[k]} for k in range(N)]
    check(write(tmp_path / "b.beton", rows), pictures)
    assert (tmp_path / "a.beton").read_bytes() == (tmp_path / "b.beton").read_bytes()


def test_hugging_face_rows_are_mappings(pictures, tmp_path):
    datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets is not installed")
    datasets.disable_progress_bars()
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(num_classes=N),
            "v": datasets.Value("float32"),
        }
    )
    rows = {"image": [Image.fromarray(p) for p in pictures], "label": list(range(N)), "v": [0.5] * N}
    dataset = datasets.Dataset.from_dict(rows, features=features)
    assert isinstance(dataset[0], dict) and isinstance(dataset[0]["image"], Image.Image)
    check(write(tmp_path / "a.beton", dataset), pictures)
    # with numpy's format, and only some of the columns
    arrays = dataset.with_format("numpy")
    beton = write(tmp_path / "b.beton", arrays, {"v": FloatField(), "image": RGBImageField("raw")})
    assert beton.column("v").tolist() == [0.5] * N


def test_a_numpy_array_is_a_list_of_rows(tmp_path):
    beton = write(tmp_path / "a.beton", np.arange(12.0).reshape(6, 2), {"a": FloatField(), "b": FloatField()})
    assert beton.metadata.tolist() == [tuple(row) for row in np.arange(12.0).reshape(6, 2).tolist()]
    matrix = [(np.full((2, 2), k, np.float32),) for k in range(3)]
    assert write(tmp_path / "b.beton", matrix, {"m": NDArrayField("<f4", (2, 2))}).num_samples == 3


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter([(1,)])


@pytest.mark.parametrize(
    ("stream", "says"), [(((i,) for i in range(3)), "generator has no __getitem__"), (Stream(), "no length")]
)
def test_a_stream_is_refused_with_what_to_do(tmp_path, stream, says):
    with pytest.raises(PipelineError, match=rf"{says}.*from_iterable"):
        DatasetWriter(tmp_path / "a.beton", {"x": IntField()}).from_indexed_dataset(stream)
