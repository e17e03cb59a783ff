"""A loader of a URL on each device; tests/readers/test_remote*.py are about how it is read."""

from __future__ import annotations

import numpy as np
import pytest

from ffcv_gpu.loader import OrderOption
from ffcv_gpu.readers.remote import downloads, mirror, schedule
from tests.range_server import RangeServer
from tests.small_file import epoch, small_loader

pytest.importorskip("obstore")


@pytest.mark.usefixtures("single_batches")
def test_every_kind_of_field_on_each_device(device, small, tmp_path, monkeypatch):
    for module in (downloads, mirror, schedule):
        monkeypatch.setattr(module, "BLOCK_BYTES", 4096)  # a few payloads, or a part of one
    server = RangeServer(small.read_bytes())
    local = epoch(small_loader(small, device, order=OrderOption.RANDOM))
    loader = small_loader(server.url, device, order=OrderOption.RANDOM, cache_dir=tmp_path)
    opened = len(server.requests)
    for one, other in zip(local, epoch(loader), strict=True):
        assert np.array_equal(one, other)
    assert len(server.requests) > opened + 4
    server.close()
