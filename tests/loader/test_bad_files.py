"""A file that is damaged, missing, or changed while it is read: refused, read to its end, or an error."""

from __future__ import annotations

import os
import threading

import pytest
import torch

from ffcv_gpu.errors import FormatError, ReadError
from ffcv_gpu.format import open_beton
from tests.small_file import (
    at_rest,
    epoch,
    run_program,
    same,
    small_loader,
)

pytestmark = [pytest.mark.timeout(200), pytest.mark.usefixtures("no_thread_is_left")]


REGIONS = {
    "version": lambda beton: 0,
    "page size": lambda beton: 4,
    "number of samples": lambda beton: 8,
    "pointer to the table": lambda beton: 16,
    "field descriptors": lambda beton: 24 + 5,
    "metadata": lambda beton: beton.layout.metadata_offset + 7,
    "section": lambda beton: beton.data_end + 30,
    "table": lambda beton: beton.table_offset + 30,
    "table's end": lambda beton: beton.size_bytes - 3,
}


@pytest.mark.parametrize("region", REGIONS)
def test_a_flipped_bit_outside_the_payloads_is_refused_when_the_loader_is_made(copy, region):
    place = REGIONS[region](open_beton(copy))
    data = bytearray(copy.read_bytes())
    data[place] ^= 0x10
    copy.write_bytes(data)
    with pytest.raises(FormatError, match=r"copy\.beton"):
        small_loader(copy)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_truncated_file_is_refused_when_the_loader_is_made(copy, share):
    os.truncate(copy, int(share * copy.stat().st_size))
    with pytest.raises(FormatError, match=r"copy\.beton"):
        small_loader(copy)


@pytest.mark.parametrize("what", ["missing", "a folder", "a pipe"])
def test_what_is_no_file_is_refused_without_a_wait(tmp_path, what):
    path = tmp_path / "none"
    if what == "a folder":
        path.mkdir()
    elif what == "a pipe":
        os.mkfifo(path)
    with pytest.raises(OSError, match="none"):
        small_loader(path)


@pytest.mark.parametrize("os_cache", [True, False])
def test_a_file_that_is_replaced_or_deleted_is_read_to_its_end(copy, tmp_path, good, os_cache):
    made = small_loader(copy, os_cache=os_cache)
    running = iter(made)
    head = next(running)
    (tmp_path / "other").write_bytes(b"not a beton file")
    os.replace(tmp_path / "other", copy)
    got = [torch.cat(column).numpy() for column in zip(head, *running, strict=True)]
    same(got, good)
    copy.unlink()
    same(epoch(made), good)
    with pytest.raises(OSError, match=r"copy\.beton"):
        small_loader(copy)


def test_a_file_that_is_replaced_while_it_is_opened_is_refused(copy, small, tmp_path, monkeypatch):
    from ffcv_gpu.dataset import file

    real = file.stored_fields

    def replacing(*arguments):
        fields = real(*arguments)
        (tmp_path / "other").write_bytes(small.read_bytes())
        os.replace(tmp_path / "other", copy)
        return fields

    monkeypatch.setattr(file, "stored_fields", replacing)
    with pytest.raises(
        ReadError, match=r"copy\.beton was replaced by another file while it was being opened"
    ):
        small_loader(copy)


@pytest.mark.usefixtures("single_batches")
@pytest.mark.parametrize("os_cache", [True, False])
@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_a_file_that_is_cut_while_it_is_read_ends_the_epoch(device, copy, os_cache, on_error):
    """Not a bad sample, whatever on_error says."""
    size = copy.stat().st_size
    made = small_loader(copy, device, 1, os_cache=os_cache, on_error=on_error)
    running = iter(made)
    next(running)
    at_rest(running)
    os.truncate(copy, 3000)
    with pytest.raises(ReadError, match=rf"was truncated from {size} to 3000 bytes.*rename"):
        list(running)
    with pytest.raises(ReadError, match="was truncated"):
        list(made)


def test_touching_what_was_cut_off_is_an_error_and_not_the_end_of_the_process(copy):
    """As if the file were cut between the look at its size and the read. In a process of its own: SIGBUS."""
    result = run_program(
        f"""
        import os
        from tests.small_file import at_rest
        from ffcv_gpu.dataset import watch
        from ffcv_gpu.loader import weights
        watch.FileWatch.check_size = lambda self: None
        weights.MOST_BUNDLED = 1
        made = Loader({str(copy)!r}, 2, pipelines={{"label": [IntDecoder()], "image": IMAGE, "vector": None}})
        running = iter(made)
        next(running)
        at_rest(running)
        os.truncate({str(copy)!r}, 2_200_000 // 2)
        try:
            list(running)
        except OSError as error:
            print(error)
        """
    )
    assert result.returncode == 0, result.stderr
    assert "field 'image'" in result.stdout and "cannot be read" in result.stdout


@pytest.mark.usefixtures("single_batches")
def test_bytes_changed_under_a_running_epoch_are_noticed(device, copy):
    made = small_loader(copy, device, 1)
    running = iter(made)
    next(running)
    with open(copy, "r+b") as file:
        file.seek(int(open_beton(copy).offsets("vector")[20]))
        file.write(b"changed")
    with pytest.raises(
        ReadError, match=r"sample 20, field 'vector'.*checksum: .*changed since it was opened"
    ):
        list(running)
    with pytest.raises(
        ReadError, match=r"sample 20, field 'vector'.*checksum: .*damaged after it was written"
    ):
        list(small_loader(copy, device, 1))


@pytest.mark.parametrize("cache_gb", [0, None], ids=["payloads", "pages"])
def test_a_closed_file_is_an_error(small, cache_gb):
    made = small_loader(small, os_cache=False, cache_gb=cache_gb)
    made.dataset.reader.close()
    with pytest.raises(ReadError):
        epoch(made)


def test_many_readers_of_one_file(small, good):
    outcomes = []

    def read(number):
        made = small_loader(small, batch_size=1 + number, os_cache=number % 2 == 0)
        outcomes.append(epoch(made))

    threads = [threading.Thread(target=read, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(outcomes) == 6
    for outcome in outcomes:
        same(outcome, good)
