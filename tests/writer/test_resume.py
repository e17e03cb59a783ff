"""An interrupted conversion resumes, and its file is that of an uninterrupted run."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ffcv_gpu.errors import SampleError, WriteError
from ffcv_gpu.fields import BytesField, IntField, RGBImageField
from ffcv_gpu.format import MIN_PAGE_SIZE, open_beton
from ffcv_gpu.writer import DatasetWriter
from ffcv_gpu.writer.journal import Journal
from tests.writer.stopping import Stop, Stopping

N = 120
FIELDS = {"image": RGBImageField("proportion"), "label": IntField(), "text": BytesField()}


def photos_of(photo, stop=None):
    """Photos and texts, a few of them bad."""

    def sample(k):
        text = "no bytes" if k % 40 == 11 else bytes([k]) * (k % 7 * 60_000)
        return photo[k % 20 :], k, text

    return Stopping(N, sample, stop)


def write(path, dataset, workers=1, resume=True, **options):
    options = {"on_error": "skip", "fsync": False, "page_size": MIN_PAGE_SIZE, **options}
    writer = DatasetWriter(path, FIELDS, num_workers=workers, progress=False, resume=resume, **options)
    return writer.from_indexed_dataset(dataset, chunksize=9, source_ids=str)


@pytest.fixture(scope="module")
def photo(make_photo):
    return make_photo(60, 80)


@pytest.fixture(scope="module")
def reference(photo, tmp_path_factory):
    path = tmp_path_factory.mktemp("reference") / "a.beton"
    report = write(path, photos_of(photo), resume=False)
    assert len(report.skipped) == 3
    return path.read_bytes()


def stop_at(path, photo, position, **options):
    with pytest.raises(Stop):
        write(path, photos_of(photo, position), **options)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_written_is_not_asked_for_again(tmp_path, photo, reference, workers):
    path = tmp_path / "a.beton"
    stop_at(path, photo, 70)
    assert sorted(os.listdir(tmp_path)) == [".a.beton.journal", ".a.beton.partial"]
    dataset = photos_of(photo)
    report = write(path, dataset, workers)
    assert path.read_bytes() == reference
    assert os.listdir(tmp_path) == ["a.beton"]
    assert 20 < report.resumed < 70
    assert f"{report.resumed} of them were already written" in str(report)
    assert report.samples == N - 3 and len(report.skipped) == 3
    if workers == 1:
        assert min(dataset.asked) > report.resumed  # by the skipped samples before it


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path, photo, reference):
    path = tmp_path / "a.beton"
    path.write_bytes(b"old")
    for position in (1, 30, 31, 80, 119):
        stop_at(path, photo, position)
        assert path.read_bytes() == b"old"
    write(path, photos_of(photo))
    assert path.read_bytes() == reference and os.listdir(tmp_path) == ["a.beton"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_was_lost_or_damaged_is_written_again(tmp_path, photo, reference, data):
    """After a kill or a power cut, the journal and the file may be truncated or damaged anywhere."""
    names = ("a.beton", ".a.beton.partial", ".a.beton.journal")
    path, partial, journal = (tmp_path / name for name in names)
    for name in names:  # of an example that failed
        (tmp_path / name).unlink(missing_ok=True)
    stop_at(path, photo, data.draw(st.integers(1, N - 1)))
    rng = random.Random(data.draw(st.integers(0, 1 << 30)))
    kinds = ["no", "cut", "flip", "more", "gone"]
    for file, choice in ((partial, kinds[:-1]), (journal, kinds)):
        damage = data.draw(st.sampled_from(choice))
        content = bytearray(file.read_bytes())
        first = 12 if file == journal else MIN_PAGE_SIZE
        if damage == "cut":
            os.truncate(file, rng.randrange(len(content)))
        elif damage == "flip" and len(content) > first:
            for _ in range(5):
                content[rng.randrange(first, len(content))] ^= 1 << rng.randrange(8)
            file.write_bytes(content)
        elif damage == "more":
            file.write_bytes(content + rng.randbytes(3000))
        elif damage == "gone":
            file.unlink()
    write(path, photos_of(photo))
    assert path.read_bytes() == reference
    assert os.listdir(tmp_path) == ["a.beton"]
    path.unlink()


def test_what_pages_leave_free_is_zero_again(tmp_path, photo, reference):
    path = tmp_path / "a.beton"
    path.write_bytes(reference)
    table = open_beton(path).allocations
    path.unlink()
    page = int(table["ptr"].max()) // MIN_PAGE_SIZE - 1  # the last that is full
    inside = table[table["ptr"] // MIN_PAGE_SIZE == page]
    free = int((inside["ptr"] + inside["size"]).max())
    assert free < (page + 1) * MIN_PAGE_SIZE
    stop_at(path, photo, N - 1)
    with open(tmp_path / ".a.beton.partial", "r+b") as file:
        file.seek(free)
        file.write(b"\1")
    report = write(path, photos_of(photo))
    assert path.read_bytes() == reference
    assert report.resumed > N / 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"page_size": 2 * MIN_PAGE_SIZE}, "different page_size"),
        ({"on_error": "raise"}, "different on_error"),
    ],
)
def test_another_conversion_is_not_gone_on_with(tmp_path, photo, change, says):
    path = tmp_path / "a.beton"
    stop_at(path, photo, 50)
    with pytest.raises(WriteError, match=rf"\.journal is from another conversion \({says}\): give the"):
        write(path, photos_of(photo), **change)
    writer = DatasetWriter(path, {"label": IntField()}, resume=True)
    with pytest.raises(WriteError, match="descriptors, fields, indices, number of samples, on_error"):
        writer.from_indexed_dataset([(1,)])
    assert sorted(os.listdir(tmp_path)) == [".a.beton.journal", ".a.beton.partial"]
    (tmp_path / ".a.beton.partial").unlink()  # the journal is then void
    writer.from_indexed_dataset([(1,)])
    assert open_beton(path).num_samples == 1 and os.listdir(tmp_path) == ["a.beton"]


def test_two_processes_cannot_write_one_file(tmp_path, photo):
    def sample(k):
        if k == 5:
            with pytest.raises(WriteError, match="another process is writing it"):
                write(tmp_path / "a.beton", photos_of(photo))
        return photos_of(photo).sample(k)

    write(tmp_path / "a.beton", Stopping(N, sample))
    assert os.listdir(tmp_path) == ["a.beton"]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_process_that_the_dataset_forked_does_not_keep_the_file_locked(tmp_path, photo):
    """It lives on when the writer was killed, and must not look like another writer."""
    children = []

    def sample(k):
        if k == 5:
            children.append(os.fork())
            if not children[0]:
                time.sleep(60)
                os._exit(0)
        return photos_of(photo).sample(k)

    with pytest.raises(Stop):
        write(tmp_path / "a.beton", Stopping(N, sample, 70))
    try:
        assert write(tmp_path / "a.beton", photos_of(photo)).resumed > 20
    finally:
        os.kill(children[0], signal.SIGKILL)
        os.waitpid(children[0], 0)


def test_a_bad_sample_keeps_what_was_written(tmp_path, photo):
    path = tmp_path / "a.beton"
    with pytest.raises(SampleError, match="sample 11"):
        write(path, photos_of(photo), on_error="raise")
    assert sorted(os.listdir(tmp_path)) == [".a.beton.journal", ".a.beton.partial"]


def test_appending_goes_on_too(tmp_path, photo):
    path, whole = tmp_path / "a.beton", tmp_path / "b.beton"
    for file in (path, whole):
        write(file, photos_of(photo), resume=False)
    options = {"num_workers": 1, "progress": False, "on_error": "skip"}
    before = path.read_bytes()
    with pytest.raises(Stop):
        DatasetWriter(path, FIELDS, resume=True, **options).append(photos_of(photo, 77))
    assert path.read_bytes() == before
    report = DatasetWriter(path, FIELDS, resume=True, **options).append(photos_of(photo))
    assert report.resumed > 20 and report.samples == 2 * (N - 3)
    DatasetWriter(whole, FIELDS, **options).append(photos_of(photo))
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.beton", "b.beton"]


@pytest.mark.parametrize("way", ["from_indexed_dataset", "append"])
def test_a_journal_without_its_file_is_void(tmp_path, photo, way):
    """As left by a process killed between its last two steps."""
    path, journal = tmp_path / "a.beton", tmp_path / ".a.beton.journal"
    write(path, photos_of(photo), resume=False)
    with Journal(str(journal), {"another": "conversion"}):
        pass
    getattr(DatasetWriter(path, FIELDS, num_workers=1, resume=True), way)([(photo, 1, b"text")])
    assert open_beton(path).column("label")[-1] == 1
    assert os.listdir(tmp_path) == ["a.beton"]


def test_a_journal_of_other_bytes_is_none(tmp_path):
    path = tmp_path / "journal"
    for content in (b"", b"ffcvjrn1", b"ffcvjrn1" + b"\xff" * 8, b"something else entirely"):
        path.write_bytes(content)
        with Journal(str(path), {"a": 1}) as journal:
            assert list(journal.parts()) == []
        with Journal(str(path), {"a": 1}) as journal:
            assert list(journal.parts()) == []
        with pytest.raises(WriteError, match=r"another conversion \(different a, b\)"):
            Journal(str(path), {"a": 2, "b": 3})
