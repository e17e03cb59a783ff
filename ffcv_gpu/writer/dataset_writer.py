"""`DatasetWriter`: writes a dataset to a ``.beton`` file, or appends it to one."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.context import BaseContext
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import PipelineError, SampleError
from ffcv_gpu.fields.base import Field
from ffcv_gpu.format import (
    DEFAULT_PAGE_SIZE,
    FileLayout,
    metadata_dtype,
    pack_descriptors,
)
from ffcv_gpu.writer import arguments
from ffcv_gpu.writer.arguments import SourceIdsWish
from ffcv_gpu.writer.builder import BetonBuilder
from ffcv_gpu.writer.describing import conversion_of, described, report_of_shard
from ffcv_gpu.writer.encoding import encoded
from ffcv_gpu.writer.growing import GrowingBuilder
from ffcv_gpu.writer.journal import Journal, conversion_noted
from ffcv_gpu.writer.merging import agreed_class_names
from ffcv_gpu.writer.output import OutputFile
from ffcv_gpu.writer.parts import Job
from ffcv_gpu.writer.progress import Progress, ProgressWish
from ffcv_gpu.writer.ranges import Ranges
from ffcv_gpu.writer.report import WriteReport
from ffcv_gpu.writer.settling import refuse_open, settled_job, settlements
from ffcv_gpu.writer.shards import Shard, ShardWish
from ffcv_gpu.writer.streams import StreamJob
from ffcv_gpu.writer.whole import Whole, check_same_fields, open_whole

__all__ = ["DatasetWriter"]

#: assumed samples per tar file, to decide what is worth loading: unknown until they have been read
_SHARD_SAMPLES = 1000


class DatasetWriter:
    """Writes a dataset to one ``.beton`` file, which FFCV can read too.

    Call `from_indexed_dataset`, `from_webdataset` or `append`. The same dataset gives the same file, byte for
    byte, with any number of workers.

    Parameters
    ----------
    fname : str or os.PathLike
        Path of the file. It is written under a temporary name in the same folder and renamed when complete;
        until then an existing file stays intact, whatever happens to this process.
    fields : mapping of str to Field
        In the order of the values in a sample. Names have at most 16 ASCII characters.
    page_size : int, default 8 MiB
        A power of two, 2 MiB <= page_size < 4 GiB. All payloads of a sample lie in one page, so it also
        limits the size of a sample.
    num_workers : int, default -1
        Processes that fetch and encode samples; 1: this process only. Below 1: one per CPU it may use.
    progress : None, bool or callable, keyword only
        None: a bar if standard error is a terminal, or in a notebook. True: a bar. False: nothing. A callable
        is called as ``progress(done, total)``, at most ten times per second; `total` is None while unknown.
    mp_context : str or multiprocessing context, keyword only
        How to start the processes. The default on Linux is "fork", which requires nothing to be picklable.
    class_names : sequence of str, keyword only
        Name of each class, stored in the file for ffcv_gpu's readers.
    on_error : "raise" or "skip", keyword only
        What to do with a sample that the dataset cannot return or a field cannot store: raise an error with
        its index and the reason, or leave it out and list it in the report and in the file.
    fsync : bool, keyword only
        Flush the file to disk before renaming it, so that not even a power cut can leave a broken file. Takes
        as long as the disk needs for the data it does not have yet.
    resume : bool, keyword only
        Record progress beside the file (``.NAME.journal``, ``.NAME.partial``; about 80 more bytes per sample)
        and resume if an earlier run with the same arguments was interrupted, for whatever reason. The dataset
        must not change; the file is the same as without the interruption. Not with `from_webdataset`.

    Raises
    ------
    FormatError
        For field names that a file cannot hold.
    PipelineError
        For any other invalid argument.
    """

    def __init__(
        self,
        fname: str | os.PathLike[str],
        fields: Mapping[str, Field],
        page_size: int = DEFAULT_PAGE_SIZE,
        num_workers: int = -1,
        *,
        progress: ProgressWish = None,
        mp_context: str | BaseContext | None = None,
        class_names: Sequence[str] | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        fsync: bool = True,
        resume: bool = False,
    ) -> None:
        self.fname = arguments.checked_path(fname)
        self.fields = arguments.checked_fields(fields)
        self.page_size = arguments.checked_page_size(page_size)
        self.num_workers = num_workers if num_workers >= 1 else arguments.usable_cpus()
        self.metadata_type = metadata_dtype([field.record_dtype for field in self.fields.values()])
        self._descriptors = tuple(arguments.descriptor_of(name, field) for name, field in self.fields.items())
        pack_descriptors(self._descriptors)  # checks the names
        if on_error not in ("raise", "skip"):
            raise PipelineError(f"on_error={on_error!r}: 'raise' or 'skip'")
        self.on_error, self._fsync, self._resume = on_error, fsync, resume
        self._progress = progress
        self._context = arguments.start_context(mp_context)
        self._class_names = class_names
        arguments.noted(self.fields, class_names)  # checks what they note

    def from_indexed_dataset(
        self,
        dataset: Any,
        indices: Iterable[Any] | None = None,
        chunksize: int = 100,
        shuffle_indices: bool = False,
        *,
        source_ids: SourceIdsWish = None,
        seed: int | None = None,
        shard: ShardWish = None,
    ) -> WriteReport:
        """Write the samples of a dataset, or one shard of them.

        Parameters
        ----------
        dataset
            Anything with ``dataset[i]`` and, if `indices` is not given, a length: a list, or a torch,
            torchvision or Hugging Face dataset. A sample is a tuple with one value per field, in field order,
            or a mapping with at least the field names as keys.
        indices : sequence, optional
            Indices of the samples to write, in file order. Default: all.
        chunksize : int
            Most samples that a worker gets at once; fewer if they are large, and towards the end.
        shuffle_indices : bool
            Shuffle with numpy's global generator, as FFCV does. The caller's sequence is not modified. With
            ``resume=True``, give `seed` or call ``np.random.seed(...)`` first: all runs need the same order.
        source_ids : sequence, mapping or callable, keyword only
            ``source_ids[i]``, or ``source_ids(i)``, is a str that says where ``dataset[i]`` came from (a
            path, a key); stored in the file for ffcv_gpu's readers.
        seed : int, keyword only
            Shuffle as after ``np.random.seed(seed)``, without touching the global generator.
        shard : (int, int), keyword only
            ``(17, 512)``: write only shard 17 (from 0) of 512 even shards; each of 512 machines writes one.
            The path for ``NAME.beton`` is ``NAME-00017-of-00512.beton``. All machines need the same other
            arguments and library versions. `merge_files` turns the shards into the file that one machine
            would have written, byte for byte; it rejects shards whose arguments, order, source ids or
            ``dataset.fingerprint`` (if it is a str) differ. A complete shard is not written again.

        Returns
        -------
        WriteReport

        Raises
        ------
        SampleError
            If a sample cannot be stored (the error names index and field), or there are no samples.
        WriteError
            If the file cannot be written, or a worker dies.
        PipelineError
            If an argument is invalid.
        FormatError
            If the shard exists already, but is damaged.
        """
        if shard is not None and shuffle_indices and seed is None:
            raise PipelineError("each machine would shuffle differently: give all of them the same seed=")
        chosen = arguments.positions(dataset, indices, shuffle_indices, seed)
        return self._write(dataset, chosen, chunksize, source_ids, shard=Shard.wished(shard))

    def append(
        self,
        dataset: Any,
        indices: Iterable[Any] | None = None,
        chunksize: int = 100,
        shuffle_indices: bool = False,
        *,
        source_ids: SourceIdsWish = None,
        seed: int | None = None,
    ) -> WriteReport:
        """Append the samples of a dataset to the existing file.

        The old file is copied, not decoded, into a new one, which replaces it when complete; the disk needs
        space for both. The page size stays that of the old file.

        Parameters, returns and raises as `from_indexed_dataset`; the report counts old and new samples.
        FormatError if the old file is damaged, PipelineError if its fields or class names differ, WriteError
        if another process has replaced it meanwhile.
        """
        base = open_whole(self.fname, self.fields)
        check_same_fields(base.beton, self.fname, self._descriptors)
        agreed_class_names([base.noted.info, arguments.noted(self.fields, self._class_names)])
        chosen = arguments.positions(dataset, indices, shuffle_indices, seed)
        return self._write(dataset, chosen, chunksize, source_ids, base)

    def _write(
        self,
        dataset: Any,
        chosen: npt.NDArray[Any],
        chunksize: int,
        source_ids: SourceIdsWish,
        base: Whole | None = None,
        shard: Shard | None = None,
    ) -> WriteReport:
        if chunksize < 1:
            raise PipelineError(f"chunksize must be at least 1, not {chunksize}")
        began = time.perf_counter()
        page_size = self.page_size if base is None else base.beton.page_size
        texts = arguments.source_texts(source_ids, chosen.tolist())
        job = Job(
            dataset, chosen, self.fields, self.metadata_type, page_size, self.on_error == "skip", texts, shard
        )
        path, note = self._place(job)
        if (report := report_of_shard(path, self.fields, note)) is not None:
            return report
        rows = len(job.span) + (0 if base is None else base.beton.num_samples)
        layout = FileLayout(page_size, rows, self._descriptors, self.metadata_type)
        with OutputFile(path, fsync=self._fsync, resumable=self._resume) as output:
            job = settled_job(job, lambda: self._noted_before(output, base))
            builder = BetonBuilder(self.fields, layout, output)
            if base is not None:
                builder.add_file(base.whole)
            old = builder.rows
            with self._journal(job, output, base) as journal:
                position = job.span.start if journal is None else journal.go_on(job, builder, output)
                resumed = builder.rows - old
                self._encode(job, chunksize, builder, position, output, journal)
                builder.count_skipped_from(job.span.start)
                size = builder.finish(*described(job, builder, self._noted(job), note, base))
                if base is not None:
                    base.check_same()
                output.finish(None if journal is None else journal.path)
        return self._report(path, job, builder, size, began, resumed)

    def _place(self, job: Job) -> tuple[str, Mapping[str, Any] | None]:
        """Return the path of the file and, for a shard, the note that it stores about itself."""
        if job.shard is None:
            return self.fname, None
        refuse_open(job.fields)
        conversion = conversion_of(job, self._noted(job), self._descriptors)
        return job.shard.path(self.fname), job.shard.note(conversion, self._class_names)

    def _noted(self, job: Job) -> dict[str, Any]:
        return arguments.noted(job.fields, self._class_names)

    def _report(
        self, path: str, job: Job, builder: BetonBuilder, size: int, began: float, resumed: int
    ) -> WriteReport:
        return WriteReport(
            path, builder.rows, size, builder.tally, time.perf_counter() - began,
            tuple(builder.skipped), resumed, settlements(job.fields),
        )  # fmt: skip

    def _noted_before(self, output: OutputFile, base: Whole | None) -> Mapping[str, Any]:
        """Return the field settings recorded by an earlier run: the interrupted one, or the file's."""
        journal = {}
        if self._resume and not output.is_new:
            journal = conversion_noted(output.beside(".journal"))
        return journal.get("fields") or ({} if base is None else base.noted.fields)

    def from_webdataset(
        self,
        shards: str | Iterable[str | os.PathLike[str]],
        pipeline: Callable[[Any], Iterable[Any]],
        *,
        shard: ShardWish = None,
    ) -> WriteReport:
        """Write the samples of WebDataset shards, in the order of the shards; each shard is read once.

        Up to 16 shards are processed in parallel. The file depends only on the shards and the pipeline, not
        on the number of workers.

        Parameters
        ----------
        shards : str, or sequence of str or os.PathLike
            Paths, URLs or ``pipe:`` commands, as for webdataset; braces are expanded
            (``"train-{0000..0146}.tar"``).
        pipeline : callable
            Called with a ``webdataset.WebDataset`` over one shard; returns an iterable of tuples with one
            value per field, or of mappings with the field names as keys:
            ``lambda dataset: dataset.to_tuple("jpg", "cls").map_tuple(None, int)``.
            A JPEG that is not decoded is stored byte for byte.
        shard : (int, int), keyword only
            As in `from_indexed_dataset`, but of whole tar files: at least one per shard, named alike on all
            machines. `merge_files` gives the same samples in the same order, but not the same bytes.

        Returns
        -------
        WriteReport

        Raises
        ------
        SampleError
            If a sample cannot be stored or has the wrong form (unless ``on_error="skip"``), the pipeline
            raises, or a shard is not a complete tar file; the error names shard and key.
        WriteError
            If the file cannot be written, or a worker dies.
        PipelineError
            If the webdataset library is not installed, or an argument is invalid.
        FormatError
            If the file of `shard` exists already, but is damaged.
        """
        # Not an import statement: imports inside the package point down, and sources are above the writer.
        source = importlib.import_module("ffcv_gpu.convert.webdataset")
        names = source.shard_names(shards)
        if not names:
            raise SampleError("nothing to write: no shards; a .beton file needs a sample")
        open_stream = functools.partial(source.samples, pipeline=pipeline)
        return self._from_streams(names, open_stream, Shard.wished(shard))

    def _from_streams(
        self,
        names: Sequence[str],
        open_stream: Callable[[str], Iterator[tuple[str, Any]]],
        shard: Shard | None = None,
    ) -> WriteReport:
        """Write the (key, values) pairs that ``open_stream(name)`` yields for each name, in this order."""
        if self._resume:
            raise PipelineError("resume=True: only from_indexed_dataset and append can resume")
        began = time.perf_counter()
        job = StreamJob(
            open_stream, np.array(names), self.fields, self.metadata_type, self.page_size,
            skips=self.on_error == "skip", shard=shard,
        )  # fmt: skip
        job = replace(job, workers=min(self.num_workers, job.lanes))
        path, note = self._place(job)
        if (report := report_of_shard(path, self.fields, note)) is not None:
            return report
        job = settled_job(job)
        self._announce(job, len(job.span) * _SHARD_SAMPLES // job.workers, job.workers)
        layout = FileLayout(self.page_size, 1, self._descriptors, self.metadata_type)
        with OutputFile(path, fsync=self._fsync) as output:
            builder, progress = GrowingBuilder(self.fields, layout, output), Progress(self._progress, None)
            ranges = Ranges(0, 1, 1, 1)
            with encoded(job, ranges, job.workers, self._context, progress, (output.fd,)) as parts:
                for part, memory in parts:
                    builder.add(part, memory)
                progress.total = builder.rows + len(builder.skipped)
            builder.put_in_order()
            info, _ = described(job, builder, self._noted(job), note, None)
            size = builder.finish(info)
            output.finish()
        return self._report(path, job, builder, size, began, 0)

    def _announce(self, job: Job, samples: int, workers: int) -> None:
        """Tell the fields how many samples each process will encode, if it inherits what they load now."""
        if workers <= 1 or self._context.get_start_method() == "fork":
            for field in job.fields.values():
                field.expect(samples)

    def _journal(
        self, job: Job, output: OutputFile, base: Whole | None
    ) -> contextlib.AbstractContextManager[Journal | None]:
        if not self._resume:
            return contextlib.nullcontext()
        conversion = {
            **conversion_of(job, self._noted(job), self._descriptors),
            "file to append to": None if base is None else base.fingerprint,
            "shard": None if job.shard is None else str(job.shard),
        }
        return Journal(output.beside(".journal"), conversion, is_void=output.is_new)

    def _encode(
        self,
        job: Job,
        chunksize: int,
        builder: BetonBuilder,
        position: int,
        output: OutputFile,
        journal: Journal | None,
    ) -> None:
        """Write the samples from `position` on."""
        left = job.span.stop - position
        workers = min(self.num_workers, -(-left // chunksize))
        self._announce(job, left // max(workers, 1), workers)
        fds = (output.fd,) if journal is None else (output.fd, journal.fd)
        ranges = Ranges(position, job.span.stop, chunksize, workers)
        progress = Progress(self._progress, len(job.span), job.span.start)
        with encoded(job, ranges, workers, self._context, progress, fds) as parts:
            for part, memory in parts:
                builder.add(part, memory)
                if journal is not None:
                    journal.append(part)
