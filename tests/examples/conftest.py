"""What the tests of the examples share: scripts as modules, one thread, data of ten plain colours."""

import contextlib
import importlib
import io
import sys
from pathlib import Path

import numpy as np
import pytest

# At the end: nothing of the repository's folders shadows an installed package.
sys.path.append(str(Path(__file__).resolve().parents[2]))  # benchmarks

torch = pytest.importorskip("torch")


@pytest.fixture(autouse=True)
def one_thread():
    """Two shared cores: torch's threads would wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def script(root, monkeypatch):
    """``script("cifar10/train")``: the module, imported as if its folder were the current one."""
    before, path = set(sys.modules), list(sys.path)

    def load(name):
        folder, _, stem = name.rpartition("/")
        monkeypatch.syspath_prepend(root / "examples" / folder)
        return importlib.import_module(stem)

    yield load
    sys.path[:] = path
    for name in set(sys.modules) - before:
        source = getattr(sys.modules[name], "__file__", None) or ""
        if source.startswith(str(root / "examples")):
            del sys.modules[name]


@pytest.fixture
def refusal(script, capfd):
    """``refusal("cifar10/train", *arguments)``: the one line in which the script says what is wrong."""

    def refuse(name, *arguments):
        assert script(name).main([str(argument) for argument in arguments]) == 2
        text = capfd.readouterr().err
        assert text.endswith("\n") and text.count("\n") == 1 and "Traceback" not in text
        return text

    return refuse


@pytest.fixture(scope="session")
def coloured():
    """``coloured(count, side)``: (pixels, label) of ten classes that a colour and some noise tell apart."""

    def make(count, side, seed=0):
        rng = np.random.default_rng(seed)
        colours = np.random.default_rng(1).integers(40, 216, (10, 3))
        for number in range(count):
            noise = rng.integers(-30, 31, (side, side, 3))
            yield (colours[number % 10] + noise).clip(0, 255).astype(np.uint8), number % 10

    return make


@pytest.fixture(scope="session")
def encoded():
    """Return pixels as the bytes of a JPEG, by Pillow."""
    from PIL import Image

    def encode(pixels, quality=95):
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "JPEG", quality=quality, subsampling=0)
        return out.getvalue()

    return encode


@pytest.fixture(scope="session")
def quiet():
    """A context in which what scripts print goes nowhere."""
    return lambda: contextlib.redirect_stdout(io.StringIO())
