"""examples/imagenet: network beside torchvision's, FFCV's settings, training, resume after a kill, DDP."""

import json
import subprocess
import sys
import tarfile
import textwrap

import numpy as np
import pytest
import torch

from ffcv_gpu.convert.beton import BetonDataset
from ffcv_gpu.loader import Loader

SMALL = (
    *("--width", "0.125", "--batch-size", "20", "--lr", "0.05", "--min-res", "32", "--max-res", "64"),
    *("--val-res", "32", "--no-blur", "--scale", "0.5", "--device", "cpu", "--workers", "1"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, coloured, encoded):
    """Images of ten classes, one sub-folder each: train 100, val 30."""
    root = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 100), ("val", 30)):
        for number, (pixels, label) in enumerate(coloured(count, 48, seed=count)):
            place = root / split / f"class{label}"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number:03d}.jpg").write_bytes(encoded(pixels[: 36 + number % 13], quality=90))
    return root


@pytest.fixture
def packed(folder, tmp_path, script, quiet):
    write = script("imagenet/write")
    with quiet():
        for split in ("train", "val"):
            out = tmp_path / f"{split}.beton"
            assert write.main([str(folder / split), str(out), "--classes", "10", "--workers", "1"]) == 0
    return tmp_path


def options(packed, out, *more):
    files = ("--train", packed / "train.beton", "--val", packed / "val.beton", "--out", packed / out)
    return [str(argument) for argument in (*files, *SMALL, *more)]


def rows_of(packed, out):
    found = json.loads((packed / out / "results.json").read_text())["epochs"]
    return [{key: row[key] for key in row if "seconds" not in key} for row in found]


# ---- network and settings


@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_network_is_torchvisions(arch, script, torchvision):
    from torchvision import models

    theirs = getattr(models, arch)(num_classes=7).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.2, 0.8)
    ours = script("imagenet/resnet").ResNet(arch, 7).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs(images), atol=1e-4)


def test_blur_stands_before_strided_convolutions(script):
    resnet = script("imagenet/resnet")
    model = resnet.ResNet("resnet18", 5, 0.25, blur_pool=True)
    blurred = [name for name, module in model.named_modules() if isinstance(module, resnet.BlurredConv)]
    assert len(blurred) == 6  # in three layers: a 3x3 convolution and a shortcut
    layer = model.get_submodule(blurred[0])
    flat = torch.ones(1, layer.conv.in_channels, 9, 9)
    inside = (slice(None), slice(None), slice(1, -1), slice(1, -1))
    assert torch.allclose(layer(flat)[inside], layer.conv(flat)[inside], atol=1e-5)


def test_settings_are_ffcvs(script):
    configs, train = script("imagenet/configs"), script("imagenet/train")
    assert sorted(configs.CONFIGS) == sorted(f"rn{n}_{e}" for n in (18, 50) for e in (16, 24, 32, 40, 56, 88))
    sixteen, longest = configs.CONFIGS["rn50_16"], configs.CONFIGS["rn18_88"]
    assert [sixteen.resolution(epoch) for epoch in (0, 11, 12, 13, 15)] == [160, 160, 192, 192, 192]
    assert [longest.resolution(epoch) for epoch in (65, 70, 71, 76, 87)] == [160, 160, 192, 192, 192]
    assert train.rate(sixteen, 0) == pytest.approx(1.7e-4) and train.rate(sixteen, 2) == 1.7
    assert train.rate(sixteen, 9) == pytest.approx(0.85) and train.rate(sixteen, 16) == 0
    files = ["--train", "a", "--val", "b", "--config", "rn50_16"]
    assert train.configuration(train.parse([*files, "--batch-size", "1024"])).lr == pytest.approx(1.7 / 4)
    assert train.configuration(train.parse([*files, "--epochs", "32"])).ramp == (22, 26)


# ---- write.py


def test_folder_is_stored_with_its_classes(packed, folder):
    reader = Loader(packed / "train.beton", 10, pipelines={"image": None}).reader
    assert reader.num_samples == 100 and reader.class_names == tuple(f"class{k}" for k in range(10))
    assert np.bincount(reader.metadata["f1"]).tolist() == [10] * 10


def test_an_index_for_crops_changes_no_pixel(folder, packed, tmp_path, script, quiet):
    arguments = [str(folder / "val"), str(tmp_path / "indexed.beton"), "--workers", "1", "--crop-index"]
    with quiet():
        assert script("imagenet/write").main(arguments) == 0
    indexed, plain = (BetonDataset(tmp_path / f"{name}.beton") for name in ("indexed", "val"))
    assert indexed.fields["image"].crop_index and not plain.fields["image"].crop_index
    assert all(np.array_equal(one, other) for (one, _), (other, _) in zip(indexed, plain, strict=True))


def test_parquet_files_are_stored(folder, tmp_path, script, quiet, refusal):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    paths = sorted((folder / "val").rglob("*.jpg"))
    for number in range(2):
        rows = paths[number::2]
        images = pa.array([{"bytes": path.read_bytes(), "path": path.name} for path in rows])
        labels = [int(path.parent.name[-1]) for path in rows]
        parquet.write_table(
            pa.table({"image": images, "label": labels}), tmp_path / f"validation-0000{number}-of-2.parquet"
        )
    arguments = [tmp_path / "validation-*.parquet", tmp_path / "val.beton", "--workers", "1"]
    with quiet():
        assert script("imagenet/write").main([str(argument) for argument in arguments]) == 0
    reader = Loader(tmp_path / "val.beton", 10, pipelines={"image": None}).reader
    wanted = [int(path.parent.name[-1]) for number in range(2) for path in paths[number::2]]
    assert reader.metadata["f1"].tolist() == wanted
    assert "has 0 classes, not the 10 of --classes" in refusal("imagenet/write", *arguments, "--classes", 10)
    assert "as a parquet file" in refusal("imagenet/write", tmp_path / "none-*.parquet", tmp_path / "o.beton")


@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_shards_are_stored(folder, tmp_path, script, quiet, ending):
    pytest.importorskip("webdataset")
    paths = sorted((folder / "val").rglob("*.jpg"))
    for shard in range(2):
        with tarfile.open(tmp_path / f"val-{shard}.{ending}", "w:gz" if "gz" in ending else "w") as archive:
            for number, path in enumerate(paths[shard::2]):
                archive.add(path, f"{number:04d}.jpg")
                (tmp_path / "cls").write_text(path.parent.name[-1])
                archive.add(tmp_path / "cls", f"{number:04d}.cls")
    with quiet():
        arguments = [str(tmp_path / f"val-{{0..1}}.{ending}"), str(tmp_path / "val.beton"), "--workers", "1"]
        assert script("imagenet/write").main(arguments) == 0
    reader = Loader(tmp_path / "val.beton", 10, pipelines={"image": None}).reader
    wanted = [int(path.parent.name[-1]) for path in (*paths[0::2], *paths[1::2])]
    assert reader.metadata["f1"].tolist() == wanted


def test_folders_that_cannot_be_stored(folder, tmp_path, refusal):
    out = tmp_path / "x.beton"
    assert "cannot read the image folder" in refusal("imagenet/write", tmp_path / "nowhere", out)
    assert "no sub-folders" in refusal("imagenet/write", tmp_path, out)
    assert "has 10 classes, not the 1000" in refusal(
        "imagenet/write", folder / "val", out, "--classes", "1000"
    )
    assert not out.exists()


# ---- train.py


def test_it_learns_and_the_images_grow(packed, script, capfd):
    arguments = options(packed, "run", "--epochs", "8", "--ema", "0.5", "--tta")
    assert script("imagenet/train").main(arguments) == 0
    rows = rows_of(packed, "run")
    assert [row["side"] for row in rows] == [32] * 7 + [64]
    assert rows[-1]["top1"] > 0.8 and rows[-1]["top5"] >= rows[-1]["top1"]  # chance: 0.1
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"] and all(row["images"] == 100 for row in rows)
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].split()[-2:] == ["seconds", "wait"] and len(lines) == 9
    assert script("imagenet/plot").main([str(packed / "run" / "results.json"), str(packed / "r.png")]) == 0
    assert (packed / "r.png").read_bytes().startswith(b"\x89PNG") and (packed / "r.png").stat().st_size > 5000


def test_float16_has_a_scaled_loss_which_is_resumed(packed, script, quiet, monkeypatch):
    arguments = options(packed, "half", "--epochs", "2", "--dtype", "float16", "--save-every", "3")
    train = script("imagenet/train")
    scaled = []
    step = torch.amp.GradScaler.step

    def noting(scaler, optimiser):
        scaled.append(scaler.get_scale())
        return step(scaler, optimiser)

    monkeypatch.setattr(torch.amp.GradScaler, "step", noting)
    with quiet():
        assert train.main(arguments) == 0
    assert len(scaled) == 10 and scaled[0] == 2.0**16
    saved = torch.load(packed / "half" / "checkpoint.pt", weights_only=True)
    saved["scaler"]["scale"], saved["place"] = 1024.0, (1, 3)
    torch.save(saved, packed / "half" / "checkpoint.pt")
    scaled.clear()
    with quiet():
        assert train.main([*arguments, "--resume"]) == 0
    assert scaled[0] == 1024.0


def test_after_a_kill_inside_an_epoch_the_curve_is_the_same(packed, script, root, quiet):
    train = script("imagenet/train")
    more = ("--epochs", "3", "--save-every", "2", "--ema", "0.9")
    with quiet():
        assert train.main(options(packed, "whole", *more)) == 0
    killed = f"""
        import os, signal, sys
        sys.path.insert(0, {str(root / "examples" / "imagenet")!r})
        import torch, train
        torch.set_num_threads(1)
        save = train.Run.save
        def save_and_die(run):
            save(run)
            if (run.epoch, run.step) == (1, 4):
                os.kill(os.getpid(), signal.SIGKILL)
        train.Run.save = save_and_die
        train.main({options(packed, "cut", *more)!r})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(killed)], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert len(rows_of(packed, "cut")) == 1
    with quiet():
        assert train.main(options(packed, "cut", *more, "--resume", "--workers", "2")) == 0
    assert rows_of(packed, "cut") == rows_of(packed, "whole")
    ends = [torch.load(packed / out / "checkpoint.pt", weights_only=True) for out in ("cut", "whole")]
    weights = [end["model"] for end in ends]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.long
def test_two_ranks_by_torchrun(packed, root):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = str(root / "examples" / "imagenet" / "train.py")
    arguments = [*command, script, *options(packed, "ddp", "--epochs", "2", "--save-every", "3")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = rows_of(packed, "ddp")
    assert done.stdout.count("epoch  side") == 1 and len(rows) == 2
    assert [row["images"] for row in rows] == [100, 100]  # ten of each rank, five times
    assert rows[1]["loss"] < rows[0]["loss"]
    assert all(round(row["top1"] * 30, 6) % 1 == 0 for row in rows)  # each of 30 images counted once


def test_what_cannot_be_trained(packed, refusal, folder, script, quiet):
    def refused(*more, name="imagenet/train"):
        return refusal(name, *options(packed, "bad", *more))

    assert "none.beton is missing; examples/imagenet/write.py" in refused("--val", packed / "none.beton")
    assert "labels 0 to 9; there are 5 classes (--classes)" in refused("--classes", "5")
    assert "100 images, too few for a batch of 200" in refused("--batch-size", "200")
    assert "--epochs must be at least 1, not 0" in refused("--epochs", "0")
    assert "--max-res 64 is less than --min-res 96" in refused("--min-res", "96")
    assert "there is no" in refused("--resume")
    assert "train.beton/run: Not a directory" in refused("--out", packed / "train.beton" / "run")
    with quiet():
        train = script("imagenet/train")
        assert train.main(options(packed, "bad", "--epochs", "1")) == 0
    assert "saved by a run with different settings" in refused("--resume", "--epochs", "2")
    again = ("--resume", "--epochs", "1")
    assert "holds another network; give the same --width and" in refused(*again, "--width", "0.25")
    (packed / "bad" / "checkpoint.pt").write_bytes(b"nothing of the kind")
    assert "checkpoint.pt is no checkpoint of this script" in refused(*again)
    for wrong in (("--width", "0"), ("--ema", "2"), ("--save-every", "-1")):
        assert "--ema from 0 to below 1" in refused(*wrong)
    (packed / "train.beton").write_bytes(b"\x80 nothing of the kind")
    assert "train.beton" in refused()
    assert "Not a directory" in refusal(
        "imagenet/overfit", folder, packed / "train.beton" / "x", "--json", packed / "r.json"
    )


def test_what_cannot_be_plotted(tmp_path, refusal, script):
    rows = [{"epoch": 1, "loss": 1, "train_accuracy": 0, "top1": 0, "wait_seconds": 0, "seconds": 1}]
    good, bad = tmp_path / "results.json", tmp_path / "bad.json"
    good.write_text(json.dumps({"epochs": rows}))
    for content in (b"\x80", b"[]", b"{}", b'{"epochs": []}', b'{"epochs": 3}', b'{"epochs": [{}]}'):
        bad.write_bytes(content)
        assert "bad.json is not a result of train.py" in refusal("imagenet/plot", bad, tmp_path / "p.png")
    assert "No such file or directory" in refusal("imagenet/plot", good, tmp_path / "none" / "p.png")
    assert "is not supported" in refusal("imagenet/plot", good, tmp_path / "p.beton")
    assert "usage" in refusal("imagenet/plot")
    assert script("imagenet/plot").main([str(good), str(tmp_path / "p.png")]) == 0


def test_too_little_memory(packed, refusal, script, monkeypatch):
    train = script("imagenet/train")
    monkeypatch.setattr(train.F, "cross_entropy", lambda *_, **__: torch.empty(1 << 50))
    said = refusal("imagenet/train", *options(packed, "x"))
    assert "not enough memory on cpu; lower --batch-size or --max-res" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_when_asked_for(packed, refusal):
    assert "torch finds no GPU here" in refusal("imagenet/train", *options(packed, "x", "--device", "cuda"))


def test_learning_by_heart(folder, tmp_path, script, quiet, monkeypatch):
    overfit = script("imagenet/overfit")
    from benchmarks.record import load
    from benchmarks.report import table

    more = ("--epochs", "2", "--width", "0.125", "--batch-size", "10", "--max-res", "64", "--workers", "1")
    arguments = [str(folder / "val"), str(tmp_path / "out"), "--json", str(tmp_path / "r.json"), *more]
    with quiet():
        assert overfit.main(arguments) == 0
        assert overfit.main([str(tmp_path / "none"), *arguments[1:]]) == 2
    record = load(tmp_path / "r.json")
    assert len(record.rows[0].repeats[0]["epochs"]) == 2 and "30 photos an epoch" in table(record)
    assert (
        record.rows[0].values["training"]["median"] > record.rows[0].values["waiting for batches"]["median"]
    )
    assert (tmp_path / "out" / "curves.png").is_file()


@pytest.mark.long
def test_two_ranks_go_on_after_a_kill(packed, root):
    program = packed / "dies.py"
    program.write_text(
        textwrap.dedent(f"""
            import os, signal, sys
            sys.path.insert(0, {str(root / "examples" / "imagenet")!r})
            import train
            save = train.Run.save
            def save_and_die(run):
                save(run)
                if (run.epoch, run.step) == (1, 2) and run.options.rank == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            train.Run.save = save_and_die
            train.main()
        """)
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    real = root / "examples" / "imagenet" / "train.py"

    def run(script, out, *more):
        arguments = [
            *command,
            str(script),
            *options(packed, out, "--epochs", "2", "--save-every", "2", *more),
        ]
        return subprocess.run(arguments, capture_output=True, text=True, timeout=200)

    assert run(program, "cut").returncode != 0
    assert len(rows_of(packed, "cut")) == 1
    done = [run(real, "cut", "--resume"), run(real, "whole")]
    assert [one.returncode for one in done] == [0, 0], done[0].stderr + done[1].stderr
    assert rows_of(packed, "cut") == rows_of(packed, "whole")
