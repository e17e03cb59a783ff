"""examples/recipes: each learns what it says, and ends bad input in one sentence."""

import csv
import importlib.util
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from ffcv_gpu.convert.image_folder import ImageFolder
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields import IntField, RGBImageField
from ffcv_gpu.writer import DatasetWriter


@pytest.fixture
def digits(script, tmp_path, quiet):
    pytest.importorskip("sklearn")
    with quiet():
        script("recipes/digits").write(tmp_path / "data")
    return tmp_path / "data"


def last_accuracy(text):
    return float(re.findall(r"test accuracy ([\d.]+)%", text)[-1])


def needs(module):
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module} is not installed")


@pytest.mark.parametrize("more", [(), ("--compile",)])
def test_plain_loop(digits, script, capfd, monkeypatch, more):
    recipe = script("recipes/plain_loop")
    if more:  # compiling takes a minute on two busy cores: what is done with the result is what we own
        monkeypatch.setattr(torch, "compile", lambda model: torch.nn.Sequential(model))
    assert recipe.main([str(digits), "--epochs", "3", *more]) == 0
    assert last_accuracy(capfd.readouterr().out) > 85


def test_without_a_compiler_the_loop_goes_on_and_says_why(digits, script, capfd, monkeypatch):
    def broken(model):
        def run(_):
            raise RuntimeError("no C++ compiler\nmore lines")

        return run

    monkeypatch.setattr(torch, "compile", broken)
    assert script("recipes/plain_loop").main([str(digits), "--epochs", "1", "--compile"]) == 0
    assert "not compiled: no C++ compiler\n" in capfd.readouterr().out


def test_self_supervised_views_find_each_other(script, tmp_path, make_photo, quiet):
    recipe = script("recipes/self_supervised")
    photos = [(make_photo(60 + number % 3, 80, seed=number), number) for number in range(64)]
    fields = {"image": RGBImageField(write_mode="jpg"), "label": IntField()}
    with quiet():
        DatasetWriter(tmp_path / "p.beton", fields, num_workers=1).from_indexed_dataset(photos)
    first, other = next(iter(recipe.make_loader(tmp_path / "p.beton", 32, 64, "cpu", num_workers=1)))
    assert first.shape == other.shape == (64, 3, 32, 32)
    same = sum(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    assert same < 6  # crops of a black sky
    # of mean colours: crops and jitter change them less than photos differ
    means = [views.mean((2, 3)) for views in (first, other)]
    distances = torch.cdist(*means)
    assert distances.diagonal().mean() < 0.6 * distances.mean()
    arguments = recipe.argparse.Namespace(
        file=tmp_path / "p.beton", side=32, batch_size=32, device="cpu", epochs=6
    )
    with quiet():
        losses = recipe.train(arguments)
    assert losses[-1] < 0.9 * losses[0]


def test_contrast_is_cross_entropy_over_the_others(script):
    recipe = script("recipes/self_supervised")
    views = torch.eye(8)[:4], torch.eye(8)[:4]  # partners equal, all others at a right angle
    wanted = -np.log(np.exp(5) / (np.exp(5) + 6))
    assert float(recipe.contrast(*views)) == pytest.approx(wanted, rel=1e-5)
    assert float(recipe.contrast(views[0], views[1].roll(1, 0))) > 4


def test_segmentation(script, tmp_path, capfd):
    recipe = script("recipes/segmentation")
    assert recipe.main([str(tmp_path / "s.beton"), "--scenes", "160", "--epochs", "5"]) == 0
    disc, square = map(float, re.findall(r"disc ([\d.]+)   square ([\d.]+)", capfd.readouterr().out)[-1])
    assert disc > 0.5 and square > 0.5
    images, masks = next(iter(recipe.make_loader(tmp_path / "s.beton", 48, 20, "cpu", num_workers=1)))
    assert (
        masks.dtype == torch.int64
        and masks.shape == (20, 48, 48)
        and set(masks.unique().tolist()) == {0, 1, 2}
    )
    bright = images.amax(1) > 0.1  # things are bright, what is around them is dark: pixels and mask agree
    assert (bright == (masks > 0)).float().mean() > 0.95


def test_linear_regression(script, tmp_path, quiet):
    recipe = script("recipes/linear_regression")
    options = recipe.argparse.Namespace(
        file=tmp_path / "t.beton",
        rows=20000,
        columns=16,
        epochs=3,
        batch_size=200,
        cache_gb=0.02,
        device="cpu",
    )
    with quiet():
        weights, error = recipe.train(options)
    rows, targets = zip(*(recipe.Table(20000, 16)[k] for k in range(0, 20000, 4)), strict=True)
    solved = np.linalg.lstsq(np.stack(rows), np.array(targets), rcond=None)[0]
    assert np.abs(weights - solved).max() < 0.02
    assert error == pytest.approx(recipe.NOISE**2, rel=0.1)


@pytest.mark.filterwarnings("ignore:You are using `torch.load`:FutureWarning")  # torch.export, up to 2.5
def test_bulk_inference(script, tmp_path, make_jpeg, make_photo, quiet):
    from PIL import Image

    recipe = script("recipes/bulk_inference")
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for number in range(9):
        (tmp_path / "in" / f"{number}.jpg").write_bytes(make_jpeg(50 + number, 70, seed=number))
    (tmp_path / "in" / "deep" / "bad.jpeg").write_bytes(b"no JPEG at all")
    arguments = [str(tmp_path / "in"), str(tmp_path / "out.csv"), "--batch-size", "4", "--side", "32"]
    with quiet():
        assert recipe.main(arguments) == 0
    rows = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))
    assert len(rows) == 10
    assert rows[-1][0] == "deep/bad.jpeg" and len(rows[-1]) == 2 and rows[-1][1].isupper()
    for name, *means in rows[:-1]:
        wanted = np.asarray(Image.open(tmp_path / "in" / name)).mean((0, 1))
        assert np.abs(np.array(means, float) - wanted).max() < 0.2
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 5))
    batch = {"input": {0: torch.export.Dim("number")}}
    program = torch.export.export(model, (torch.zeros(2, 3, 32, 32),), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "m.pt2")
    with quiet():
        assert recipe.main([*arguments, "--model", str(tmp_path / "m.pt2")]) == 0
    image = torch.from_numpy(np.asarray(Image.open(tmp_path / "in" / "8.jpg")).copy())
    shares = model(recipe.prepared(image, 32)[None]).softmax(1)[0].detach()
    row = list(csv.reader((tmp_path / "out.csv").read_text().splitlines()))[8]
    assert row[:2] == ["8.jpg", str(int(shares.argmax()))] and abs(float(row[2]) - float(shares.max())) < 0.01


ENGINES = (("processes", "concurrent"), ("ray", "ray"), ("dask", "distributed"))


@pytest.mark.parametrize("engine", [pytest.param(name, marks=needs(module)) for name, module in ENGINES])
def test_convert_on_cluster(engine, script, tmp_path, make_jpeg):
    """Each shard in another process, which has to find the function: run as users do."""
    recipe = script("recipes/convert_on_cluster").__file__
    for number in range(10):
        folder = tmp_path / "in" / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(make_jpeg(50 + number, 70, seed=number))
    out, one = tmp_path / "a.beton", tmp_path / "one.beton"
    arguments = [tmp_path / "in", out, "--shards", "3", "--max-resolution", "60", "--engine", engine]

    def run():
        return subprocess.run([sys.executable, recipe, *arguments], capture_output=True, text=True)

    done = run()
    assert done.returncode == 0 and "a-00002-of-00003.beton: 4 samples" in done.stdout, done.stderr
    dataset = ImageFolder(tmp_path / "in")
    fields = {"image": RGBImageField(max_resolution=60), "label": IntField()}
    writer = DatasetWriter(one, fields, num_workers=1, class_names=dataset.classes, progress=False)
    writer.from_indexed_dataset(dataset, source_ids=dataset.source_ids)
    assert out.read_bytes() == one.read_bytes() and len(list(tmp_path.glob("*.beton"))) == 2
    last_photo = tmp_path / "in" / "class 1" / "9.jpg"
    good = last_photo.read_bytes()
    last_photo.write_bytes(b"no JPEG at all")
    done = run()
    last = done.stderr.splitlines()[-1]  # Dask logs before it
    assert done.returncode == 2 and last.startswith("convert_on_cluster.py: ") and "class 1/9.jpg" in last
    last_photo.write_bytes(good)
    out.unlink()
    assert run().returncode == 0 and out.read_bytes() == one.read_bytes()


def test_prepared_is_torchvisions_resize_and_crop(script, torchvision, make_photo):
    transforms = torchvision.transforms
    image = make_photo(90, 151, seed=3)
    whole = transforms.Compose(
        [transforms.ToTensor(), transforms.Resize(64, antialias=True), transforms.CenterCrop(64)]
    )
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    wanted = transforms.functional.normalize(whole(image), mean, std)
    found = script("recipes/bulk_inference").prepared(torch.from_numpy(image.copy()), 64)
    # at most half a pixel between the two ways to round the longer side and the centre
    assert (found - wanted).abs().mean() < 0.1


@needs("pytorch_lightning")
@pytest.mark.filterwarnings("ignore")
def test_lightning(digits, script, capfd, torchvision):
    assert script("recipes/with_lightning").main([str(digits), "--workers", "1"]) == 0
    assert last_accuracy(capfd.readouterr().out) > 85


@needs("accelerate")
@pytest.mark.filterwarnings("ignore")
def test_accelerate(digits, script, capfd):
    assert script("recipes/with_accelerate").main([str(digits), "--workers", "1", "--cpu"]) == 0
    assert last_accuracy(capfd.readouterr().out) > 85


@needs("timm")
@pytest.mark.filterwarnings("ignore")
def test_timm(digits, script, capfd, torchvision, refusal):
    assert script("recipes/with_timm").main([str(digits), "--workers", "1"]) == 0
    assert last_accuracy(capfd.readouterr().out) > 80
    assert "timm has no network 'none'" in refusal("recipes/with_timm", digits, "--model", "none")


TIMM_SCRIPT = """
import sys, torch, timm
from timm.data import create_dataset, create_loader
def loader(split, **more):  # as timm's train.py calls them
    dataset = create_dataset("", root=sys.argv[1], split=split, is_training="scale" in more, class_map="",
        download=False, batch_size=50, seed=42, repeats=0)
    return create_loader(dataset, input_size=(3, 16, 16), batch_size=50, is_training="scale" in more,
        use_prefetcher=True, interpolation="bilinear", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
        num_workers=1, distributed=False, crop_pct=1.0, pin_memory=False, device=torch.device("cpu"),
        img_dtype=torch.float32, **more)
extra = {"auto_augment": "rand-m9"} if "aa" in sys.argv else {}
train = loader("train", scale=[0.7, 1.0], ratio=[0.9, 1.1], hflip=0.0, vflip=0.0, color_jitter=0.2,
    re_prob=0.2, re_mode="const", re_count=1, no_aug=False, collate_fn=None, **extra)
test = loader("test")
torch.manual_seed(0)
model = timm.create_model("test_resnet", num_classes=10)
optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
for epoch in range(3):
    train.dataset.set_epoch(epoch)
    assert not any(hasattr(each, "set_epoch") for each in (train.batch_sampler, train.sampler))
    for images, labels in train:
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
model.eval()
hits = torch.cat([(model(images).argmax(1) == labels).float() for images, labels in test])
assert len(hits) == 297 and len(train) == 30
print(f"test accuracy {hits.mean():.1%}")
"""


@needs("timm")
@pytest.mark.filterwarnings("ignore")
def test_a_script_that_calls_timms_loader(digits, script, capfd, torchvision, refusal, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    for name in ("create_dataset", "create_loader"):
        monkeypatch.setattr(f"timm.data.{name}", None)
    (tmp_path / "train.py").write_text(TIMM_SCRIPT)
    recipe = "recipes/with_timm_train"
    assert script(recipe).main([str(tmp_path / "train.py"), str(digits)]) == 0
    assert last_accuracy(capfd.readouterr().out) > 75
    assert "is asked for --aa: this recipe" in refusal(recipe, tmp_path / "train.py", digits, "aa")
    assert "train.beton is missing" in refusal(recipe, tmp_path / "train.py", tmp_path)
    assert "none.py is missing" in refusal(recipe, tmp_path / "none.py")


@pytest.fixture
def for_timm(digits, script):
    """``for_timm(split, **options)``: what the recipe gives timm's train.py, in its words."""
    recipe = script("recipes/with_timm_train")

    def make(split, seed=42, size=(3, 16, 16), **asked):
        dataset = recipe.create_dataset("", root=digits, split=split, seed=seed, class_map="")
        common = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "device": torch.device("cpu"), "num_workers": 1}
        return recipe.create_loader(dataset, size, 100, split == "train", **common, **asked)

    make.recipe = recipe
    return make


def test_timms_loader_does_what_it_is_asked(digits, for_timm, script):
    first, labels = next(iter(for_timm("train", color_jitter=0)))
    assert torch.equal(first, next(iter(for_timm("train", color_jitter=0.4, color_jitter_prob=0)))[0])
    assert not torch.equal(first, next(iter(for_timm("train", color_jitter=0.4)))[0])
    assert not torch.equal(labels, next(iter(for_timm("train", seed=1)))[1])
    erased = next(iter(for_timm("train", re_prob=1.0, re_mode="const", color_jitter=0)))[0]
    assert erased[erased != first].abs().max() < 0.005  # grey, of whole levels
    assert (erased != first).flatten(1).any(1).float().mean() > 0.9
    # epochs: train.py sets them; a resumed run begins at one
    ran, resumed = (for_timm("train") for _ in range(2))
    assert len(list(ran)) == len(ran) == 15
    resumed.dataset.set_epoch(1)
    assert all(torch.equal(*pair) for pair in zip(next(iter(ran)), next(iter(resumed)), strict=True))
    # without augmentation every image is whole, as in a loader that crops nothing
    plain = script("recipes/digits").loader(digits / "train.beton", 1500, training=False, workers=1)
    wanted = next(iter(plain))[0].sum((1, 2, 3)).sort().values
    found = torch.cat([images for images, _ in for_timm("train", no_aug=True)]).sum((1, 2, 3)).sort().values
    assert torch.allclose(found, wanted, atol=1e-3)


def test_timms_evaluator_is_told_what_a_rank_repeats(digits, for_timm, script, monkeypatch):
    everything = script("recipes/digits").loader(digits / "test.beton", 297, training=False, workers=1)
    labels = next(iter(everything))[1]
    assert for_timm("test").sampler is None
    for rank, valid in ((0, 149), (1, 148)):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        loader = for_timm("test", distributed=True)
        dealt = torch.cat([labels for _, labels in loader])
        assert len(dealt) == 149 and loader.sampler.num_valid_samples == valid
        assert torch.equal(dealt[:valid], labels[rank::2])


def test_what_timms_loader_does_not_offer_is_refused(for_timm):
    for asked, words in (
        ({"vflip": 0.5, "grayscale_prob": 0.1}, "--vflip, --grayscale-prob: this"),
        ({"num_aug_splits": 2}, "--aug-splits"),
        ({"collate_fn": print}, "--mixup or --cutmix without --no-prefetcher"),
        ({"input_size_choices": [16, 24]}, "--train-img-sizes"),
        ({"train_crop_mode": "rkrc"}, "--train-crop-mode"),
        ({"re_prob": 0.1, "re_mode": "pixel"}, "use --remode const --recount 1"),
        ({"size": (1, 16, 16)}, "1 channels"),
    ):
        with pytest.raises(PipelineError, match=words):
            for_timm("train", **asked)
    for asked, words in (
        ({"name": "hfds/x"}, "--dataset"), ({"target_transform": print}, "--task multilabel"),
        ({"class_map": "map.txt"}, "--class-map"),
    ):  # fmt: skip
        with pytest.raises(PipelineError, match=words):
            for_timm.recipe.create_dataset(**asked)
    with pytest.raises(PipelineError, match="--naflex-loader"):
        for_timm.recipe.create_naflex_loader(dataset=None)
    for_timm("train", train_crop_mode="rrc")
    for_timm("test", crop_mode="center", crop_pct=0.95)


@needs("transformers")
@needs("accelerate")
@pytest.mark.filterwarnings("ignore")
def test_trainer(digits, script, capfd, torchvision):
    assert script("recipes/with_trainer").main([str(digits), "--workers", "1", "--cpu"]) == 0
    text = capfd.readouterr().out
    assert last_accuracy(text) > 85 and text.count("eval_accuracy") == 4


def test_what_cannot_work(tmp_path, refusal, digits, script, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.beton").write_bytes(b"nothing of the kind")
    assert "train.beton is missing" in refusal("recipes/plain_loop", tmp_path)
    assert "p.beton is missing" in refusal("recipes/self_supervised", tmp_path / "p.beton")
    for recipe in ("self_supervised", "segmentation", "linear_regression"):
        assert "bad.beton" in refusal(f"recipes/{recipe}", tmp_path / "bad.beton")
    for recipe in ("segmentation", "linear_regression"):
        assert "fields are 'image', 'label'" in refusal(f"recipes/{recipe}", digits / "train.beton")
    assert "is not a folder" in refusal("recipes/bulk_inference", tmp_path / "none", tmp_path / "o.csv")
    assert "no .jpg or .jpeg" in refusal("recipes/bulk_inference", tmp_path / "empty", tmp_path / "o.csv")
    for recipe, package in (
        ("with_lightning", "pytorch_lightning"), ("with_accelerate", "accelerate"), ("with_timm", "timm"),
        ("with_trainer", "transformers"), ("with_timm_train", "timm"),
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, package, None)
        assert "cannot be imported" in refusal(f"recipes/{recipe}", digits)


def test_too_little_to_train_on(tmp_path, refusal, digits, script, quiet, make_photo):
    with quiet():
        script("recipes/segmentation").write(tmp_path / "scenes.beton", 4)
        script("recipes/linear_regression").write(tmp_path / "table.beton", 4, 3)
        fields = {"image": RGBImageField()}
        writer = DatasetWriter(tmp_path / "few.beton", fields, num_workers=1)
        writer.from_indexed_dataset([(make_photo(20, 30, seed),) for seed in range(4)])
    said = refusal("recipes/self_supervised", tmp_path / "few.beton")
    assert "few.beton has 4 images; --batch-size 64 --epochs 5" in said
    said = refusal("recipes/segmentation", tmp_path / "scenes.beton")
    assert "nothing to train on: " in said and "has 4 images; --batch-size 20 --epochs 5" in said
    assert "has 4 rows; --batch-size 512" in refusal("recipes/linear_regression", tmp_path / "table.beton")
    few = ("--batch-size", 2, "--epochs", 0)
    assert "--epochs 0" in refusal("recipes/segmentation", tmp_path / "scenes.beton", *few)
    assert "--epochs 0" in refusal("recipes/self_supervised", tmp_path / "few.beton", *few)
    assert "--epochs 0" in refusal("recipes/linear_regression", tmp_path / "table.beton", *few)
    assert "--epochs 0" in refusal("recipes/plain_loop", digits, "--epochs", 0)


def test_predictions_that_cannot_be_written(tmp_path, refusal, make_jpeg):
    (tmp_path / "a.jpg").write_bytes(make_jpeg(20, 30, 0))
    arguments = ("recipes/bulk_inference", tmp_path, tmp_path / "o.csv")
    assert "none/o.csv" in refusal(*arguments[:2], tmp_path / "none" / "o.csv")
    for wrong in (("--batch-size", 0), ("--batch-size", -3), ("--side", 0)):
        assert "--batch-size and --side must be at least 1" in refusal(*arguments, *wrong)
    for model in (tmp_path / "none.pt2", tmp_path / "a.jpg"):
        assert f"{model.name} is no program saved by torch" in refusal(*arguments, "--model", model)
