"""How a `DatasetWriter` writes: samples by number, or streams of samples, into a new file."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from multiprocessing.context import BaseContext
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.base import Field
from ffcv_gpu.format import FieldDescriptor, FileLayout
from ffcv_gpu.writer import arguments
from ffcv_gpu.writer.arguments import SourceIdsWish
from ffcv_gpu.writer.builder import BetonBuilder
from ffcv_gpu.writer.describing import conversion_of, described, report_of_shard
from ffcv_gpu.writer.encoding import encoded
from ffcv_gpu.writer.growing import GrowingBuilder
from ffcv_gpu.writer.journal import Journal, conversion_noted
from ffcv_gpu.writer.output import OutputFile
from ffcv_gpu.writer.parts import Job
from ffcv_gpu.writer.progress import Progress, ProgressWish
from ffcv_gpu.writer.ranges import Ranges
from ffcv_gpu.writer.report import WriteReport
from ffcv_gpu.writer.settling import refuse_open, settled_job, settlements
from ffcv_gpu.writer.shards import Shard
from ffcv_gpu.writer.streams import StreamJob
from ffcv_gpu.writer.whole import WholeFile

__all__ = ["Writing"]

#: assumed samples per stream, to decide what is worth loading: unknown until they have been read
_STREAM_SAMPLES = 1000


class Writing:
    """The part of `DatasetWriter` that is not for its users; the attributes are its constructor's."""

    fname: str
    fields: dict[str, Field]
    page_size: int
    num_workers: int
    metadata_type: np.dtype[Any]
    on_error: str
    _descriptors: tuple[FieldDescriptor, ...]
    _fsync: bool
    _resume: bool
    _progress: ProgressWish
    _context: BaseContext
    _class_names: Sequence[str] | None

    def _from_samples(
        self,
        dataset: Any,
        chosen: npt.NDArray[Any],
        chunksize: int,
        source_ids: SourceIdsWish,
        base: WholeFile | None = None,
        shard: Shard | None = None,
    ) -> WriteReport:
        """Write ``dataset[i]`` for each index in `chosen`."""
        if chunksize < 1:
            raise PipelineError(f"chunksize must be at least 1, not {chunksize}")
        page_size = self.page_size if base is None else base.beton.page_size
        if source_ids is None:
            source_ids = arguments.own_source_ids(dataset)
        texts = arguments.source_texts(source_ids, chosen.tolist())
        job = Job(
            dataset, chosen, self.fields, self.metadata_type, page_size, self.on_error == "skip", texts, shard
        )
        return self._write(job, chunksize, base)

    def _from_streams(
        self,
        names: Sequence[str] | range,
        open_stream: Callable[[Any], Iterator[tuple[str | int, Any]]],
        shard: Shard | None = None,
        kind: type[StreamJob] = StreamJob,
    ) -> WriteReport:
        """Write the (key, values) pairs that ``open_stream(name)`` yields for each name, in this order."""
        if self._resume:
            raise PipelineError("resume=True: only from_indexed_dataset and append can resume")
        job = kind(
            open_stream, np.array(names), self.fields, self.metadata_type, self.page_size,
            skips=self.on_error == "skip", shard=shard,
        )  # fmt: skip
        return self._write(replace(job, workers=min(self.num_workers, job.lanes)))

    def _write(self, job: Job, chunksize: int = 1, base: WholeFile | None = None) -> WriteReport:
        began = time.perf_counter()
        path, note = self._place(job)
        if (report := report_of_shard(path, self.fields, note)) is not None:
            return report
        layout = self._layout(job, base)  # refuses too many shards: before there is a file to resume
        with OutputFile(path, fsync=self._fsync, resumable=self._resume) as output:
            job = settled_job(job, lambda: self._noted_before(output, base))
            builder = self._builder(job, layout, output, base)
            old = builder.rows
            with self._journal(job, output, base) as journal:
                position = job.span.start if journal is None else journal.go_on(job, builder, output)
                resumed = builder.rows - old
                self._encode(job, chunksize, builder, position, journal)
                builder.put_in_order(job.span.start)
                size = builder.finish(*described(job, builder, self._noted(job), note, base))
                output.finish(
                    None if journal is None else journal.path, None if base is None else base.check_same
                )
        return WriteReport(
            path, builder.rows, size, builder.tally, time.perf_counter() - began,
            tuple(builder.skipped), resumed, settlements(job.fields),
        )  # fmt: skip

    def _layout(self, job: Job, base: WholeFile | None) -> FileLayout:
        """Return the layout of the file; that of streams grows."""
        rows = 1
        if not isinstance(job, StreamJob):
            rows = len(job.span) + (0 if base is None else base.beton.num_samples)
        return FileLayout(job.page_size, rows, self._descriptors, self.metadata_type)

    def _builder(
        self, job: Job, layout: FileLayout, output: OutputFile, base: WholeFile | None
    ) -> BetonBuilder:
        """Return the builder of the file, with the samples of `base`."""
        kind = GrowingBuilder if isinstance(job, StreamJob) else BetonBuilder
        builder = kind(self.fields, layout, output)
        if base is not None:
            builder.add_file(base.contents)
        return builder

    def _place(self, job: Job) -> tuple[str, Mapping[str, Any] | None]:
        """Return the path of the file and, for a shard, the note that it stores about itself."""
        if job.shard is None:
            return self.fname, None
        refuse_open(job.fields)
        conversion = conversion_of(job, self._noted(job), self._descriptors)
        return job.shard.path(self.fname), job.shard.note(conversion, self._class_names)

    def _noted(self, job: Job) -> dict[str, Any]:
        return arguments.noted(job.fields, self._class_names)

    def _noted_before(self, output: OutputFile, base: WholeFile | None) -> Mapping[str, Any]:
        """Return the field settings recorded by an earlier run: the interrupted one, or the file's."""
        journal = {}
        if self._resume and not output.is_new:
            journal = conversion_noted(output.beside(".journal"))
        return journal.get("fields") or ({} if base is None else base.noted.fields)

    def _announce(self, job: Job, samples: int, workers: int) -> None:
        """Tell the fields how many samples each process will encode, if it inherits what they load now."""
        if workers <= 1 or self._context.get_start_method() == "fork":
            for field in job.fields.values():
                field.expect(samples)

    def _journal(
        self, job: Job, output: OutputFile, base: WholeFile | None
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
        journal: Journal | None,
    ) -> None:
        """Write the samples from `position` on."""
        if isinstance(job, StreamJob):
            samples = len(job.span) * _STREAM_SAMPLES
            ranges = Ranges(0, job.workers, 1, job.workers)
            progress = Progress(self._progress, None)
        else:
            samples = job.span.stop - position
            workers = min(self.num_workers, -(-samples // chunksize))
            ranges = Ranges(position, job.span.stop, chunksize, workers)
            progress = Progress(self._progress, len(job.span), job.span.start)
        self._announce(job, samples // max(ranges.workers, 1), ranges.workers)
        with encoded(job, ranges, self._context, progress) as parts:
            for part, memory in parts:
                builder.add(part, memory)
                if journal is not None:
                    journal.append(part)
            if progress.total is None:
                progress.total = builder.rows + len(builder.skipped)
