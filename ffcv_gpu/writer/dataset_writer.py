"""`DatasetWriter`: writes a dataset to a ``.beton`` file, or appends it to one."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from multiprocessing.context import BaseContext
from typing import Any, Literal

from ffcv_gpu.dataset.agreement import agreed_class_names, check_same_fields
from ffcv_gpu.dataset.stored import readable
from ffcv_gpu.errors import PipelineError, ReadError, SampleError
from ffcv_gpu.fields.base import Field
from ffcv_gpu.format import DEFAULT_PAGE_SIZE, metadata_dtype, pack_descriptors, read_descriptors
from ffcv_gpu.writer import arguments
from ffcv_gpu.writer.arguments import SourceIdsWish
from ffcv_gpu.writer.progress import ProgressWish
from ffcv_gpu.writer.report import WriteReport
from ffcv_gpu.writer.shards import Shard, ShardWish
from ffcv_gpu.writer.streams import IterableJob, check_iterables, numbered_samples
from ffcv_gpu.writer.whole import open_whole
from ffcv_gpu.writer.writing import Writing

__all__ = ["DatasetWriter"]


class DatasetWriter(Writing):
    """Writes a dataset to one ``.beton`` file, which FFCV can read too.

    Call `from_indexed_dataset`, `from_webdataset`, `from_iterable` or `append`. The same dataset gives the
    same file, byte for byte, with any number of workers.

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
        Processes that fetch and encode samples; 1: this process only. Below 1: one per CPU it may use; 1 in
        a daemonic process (a worker of a `multiprocessing.Pool`), which may not start any.
    progress : None, bool or callable, keyword only
        None: a bar if standard error is a terminal, or in a notebook with ipywidgets. True: a bar. False:
        nothing. A callable is called as ``progress(done, total)``, at most ten times per second; `total` is
        None while unknown.
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
        must not change; the file is the same as without the interruption. Only with `from_indexed_dataset`
        and `append`.

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
        self.num_workers = arguments.checked_workers(num_workers)
        self.metadata_type = metadata_dtype([field.record_dtype for field in self.fields.values()])
        self._descriptors = tuple(arguments.descriptor_of(name, field) for name, field in self.fields.items())
        pack_descriptors(self._descriptors)  # checks the names
        if on_error not in ("raise", "skip"):
            raise PipelineError(f"on_error={on_error!r}: 'raise' or 'skip'")
        self.on_error, self._fsync, self._resume = on_error, fsync, resume
        self._progress = progress
        self._context = arguments.start_context(mp_context)
        self._class_names = arguments.checked_class_names(class_names)
        arguments.noted(self.fields, self._class_names)  # checks what they note

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
            torchvision or Hugging Face dataset. A sample is a tuple with one value per field, in field order
            (values beyond the last field are left out, with a warning), or a mapping with at least the field
            names as keys.
        indices : sequence, optional
            Indices of the samples to write, in file order. Default: all.
        chunksize : int
            Most samples that a worker gets at once; fewer if they are large, and towards the end.
        shuffle_indices : bool
            Shuffle with numpy's global generator, as FFCV does. The caller's sequence is not modified. With
            ``resume=True``, give `seed` or call ``np.random.seed(...)`` first: all runs need the same order.
        source_ids : sequence, mapping or callable, keyword only
            ``source_ids[i]``, or ``source_ids(i)``, is a str that says where ``dataset[i]`` came from (a
            path, a key); named in errors, and stored in the file for ffcv_gpu's readers. Default:
            ``dataset.source_ids``, if there is one (`ImageFolder`, `BetonDataset`, and a torch `Subset` of
            them).
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
        return self._from_samples(dataset, chosen, chunksize, source_ids, shard=Shard.wished(shard))

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
        space for both. Old samples are compared with their checksums, if they have any. The page size stays
        that of the old file.

        Parameters, returns and raises as `from_indexed_dataset`; the report counts old and new samples.
        ReadError if there is no old file or one of its samples is damaged, FormatError if the rest of it is,
        PipelineError if its fields or class names differ, WriteError if another process has replaced it
        meanwhile.
        """
        if not os.path.lexists(self.fname):
            raise ReadError(
                f"append: there is no {self.fname} to append to; from_indexed_dataset writes a new file"
            )
        with readable(self.fname):
            found = read_descriptors(self.fname)
        # First: it cannot be opened without the classes of its custom fields.
        check_same_fields(self.fname, found, "the samples to append", self._descriptors)
        base = open_whole(self.fname, self.fields)
        agreed_class_names([base.noted.info, arguments.noted(self.fields, self._class_names)])
        chosen = arguments.positions(dataset, indices, shuffle_indices, seed)
        return self._from_samples(dataset, chosen, chunksize, source_ids, base)

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

    def from_iterable(self, *iterables: Iterable[Any]) -> WriteReport:
        """Write the samples of a generator, a streamed dataset or any other iterable, of unknown length.

        Parameters
        ----------
        iterables : iterable
            Of samples as in `from_indexed_dataset`. Each is iterated once, in one process. Several are
            processed in up to 16 processes; the samples of the first come first in the file.

        Returns
        -------
        WriteReport

        Raises
        ------
        SampleError
            If an iterable raises, or a sample cannot be stored (unless ``on_error="skip"``); the error names
            the iterable and the sample's number in it, from 0. Also if there are no samples.
        WriteError
            If the file cannot be written, or a worker dies.
        PipelineError
            If something given is not iterable; if the writer has ``resume=True``; if an iterator, which can
            be read only once, is given although a field's target needs to see samples first.

        Examples
        --------
        >>> def frames(path):
        ...     video = cv2.VideoCapture(path)
        ...     while (read := video.read())[0]:
        ...         yield read[1][..., ::-1], path
        >>> writer.from_iterable(*map(frames, paths))
        """
        check_iterables(iterables, self.fields)
        numbered = functools.partial(numbered_samples, iterables)
        return self._from_streams(range(len(iterables)), numbered, kind=IterableJob)
