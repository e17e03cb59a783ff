"""An S3 bucket simulated by moto; skipped unless it is installed (``pip install 'moto[server]'``)."""

from __future__ import annotations

import urllib.request

import pytest

from ffcv_gpu.errors import ReadError
from ffcv_gpu.loader import OrderOption
from tests.remote_file import batches, long_loader, same

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(120)]


@pytest.fixture
def bucket(monkeypatch):
    """The address of a bucket called "bucket"; endpoint and credentials are in the environment."""
    moto = pytest.importorskip("moto.server")
    pytest.importorskip("obstore")
    server = moto.ThreadedMotoServer(port=0)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    environment = {"ACCESS_KEY_ID": "us", "SECRET_ACCESS_KEY": "secret", "REGION": "us-east-1",
                   "ENDPOINT": endpoint, "ALLOW_HTTP": "true"}  # fmt: skip
    for name, value in environment.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT")).close()
    yield f"{endpoint}/bucket"
    server.stop()


def test_a_bucket(bucket, long, cache):
    from obstore.store import from_url

    store = from_url("s3://bucket", client_options={"allow_http": True})
    store.put("some folder/train.beton", long.read_bytes())
    url = "s3://bucket/some folder/train.beton"
    local, remote = (long_loader(name, order=OrderOption.RANDOM, cache_dir=cache) for name in (long, url))
    assert same(batches(local), batches(remote))
    begun = long_loader(url, cache_dir=cache, indices=[1])
    store.put("some folder/train.beton", long.read_bytes()[::-1])
    assert len(batches(begun)) == 1, "what is on the local disk needs no server"
    with pytest.raises(ReadError, match=r"s3://bucket/none.beton: .*is the URL right"):
        long_loader("s3://bucket/none.beton", cache_dir=cache)
