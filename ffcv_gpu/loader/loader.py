"""The `Loader`: FFCV's constructor; iterates over batches of arrays or tensors."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from ffcv_gpu.dataset.dataset import Dataset
from ffcv_gpu.device import CpuDevice
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.jpeg.base import JpegBackend
from ffcv_gpu.loader.arguments import (
    check_flags,
    checked_cache,
    checked_indices,
    checked_mapping,
    checked_names,
    checked_pipelines,
    choose_ranks,
    choose_seed,
)
from ffcv_gpu.loader.assembly import Assembly, Wishes
from ffcv_gpu.loader.attributes import FfcvAttributes
from ffcv_gpu.loader.course import Progress
from ffcv_gpu.loader.explain import Decoders, Text, explain
from ffcv_gpu.loader.filtering import probing, rows_passing
from ffcv_gpu.loader.gpu_engine import GpuEngine
from ffcv_gpu.loader.iterator import EpochIterator
from ffcv_gpu.loader.job import Engine
from ffcv_gpu.loader.policy import BadSample, ErrorPolicy, OnError
from ffcv_gpu.loader.resume import Resumable
from ffcv_gpu.loader.streamed import StreamedRun
from ffcv_gpu.loader.traversal import ORDER_MAP, ORDER_TYPE, TraversalOrder, length_of, traversal
from ffcv_gpu.loader.weights import MOST_IN_FLIGHT, batch_weight, batches_in_flight, bundle_size
from ffcv_gpu.pipeline.doubts import without_doubts
from ffcv_gpu.pipeline.program import Program
from ffcv_gpu.plan import Planner
from ffcv_gpu.sampling import OrderOption
from ffcv_gpu.staging import SlotRing
from ffcv_gpu.steps import whole
from ffcv_gpu.trace import Profile, StageClock, StageStats, Timeline

__all__ = ["DEFAULT_OS_CACHE", "DEFAULT_PROCESS_CACHE", "ORDER_MAP", "ORDER_TYPE", "Loader", "OrderOption"]

logger = logging.getLogger(__name__)

DEFAULT_OS_CACHE = os.environ.get("FFCV_DEFAULT_CACHE_PROCESS", "0") != "1"
DEFAULT_PROCESS_CACHE = int(not DEFAULT_OS_CACHE)


class Loader(Resumable, FfcvAttributes):
    """Iterates over a ``.beton`` file, or several, in batches; each ``iter()`` starts the next epoch.

    A batch is a tuple with one array or tensor per output, samples along the first axis: the file's
    fields in file order, without dropped ones, then extra outputs in the order of `pipelines`. It stays
    valid for as long as you keep it: memory is reused only once no array, tensor or view refers to it.
    GPU outputs can be used at once on the current stream of the thread that iterates.

    Parameters
    ----------
    fname : str or os.PathLike, or list of these
        The path of the file, or its URL in an object store (s3, gs, az, http, https; needs
        ``ffcv-gpu[remote]``). A list: several files with the same fields, read as if they had been merged in
        this order; rows are numbered from file to file. What is read of a remote file is copied to
        `cache_dir`, slightly ahead in the order of the epoch; later epochs and runs read the copy.
        Credentials, region and endpoint are taken from the environment, as by obstore
        (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT``, ``GOOGLE_APPLICATION_CREDENTIALS``, ...).
    batch_size : int
        Samples per batch.
    num_workers : int, default -1
        Worker threads, which read, decode and augment. Less than 1: one per CPU available to this process,
        or per CPU of its share if torchrun started several on this machine (LOCAL_WORLD_SIZE).
    os_cache : bool, default True (False if the environment has FFCV_DEFAULT_CACHE_PROCESS=1)
        True: read through a memory map; all processes share the system's page cache. False (not for a URL):
        for files larger than memory; pages are read ahead in the order of the epoch into `cache_gb` of
        memory, bypassing the system's page cache where possible.
    order : OrderOption or TraversalOrder subclass, default SEQUENTIAL
        SEQUENTIAL: the order of `indices`. RANDOM: a full shuffle. QUASI_RANDOM: shuffled within a moving
        pool of pages, so that each page is read once. Or a custom class.
    distributed : bool, default False
        Split the epoch's order among the ranks of torch.distributed (or of the environment variables RANK
        and WORLD_SIZE). It is padded by wrapping around, so that every rank has the same number of batches.
        `rank` and `world_size` set both explicitly.
    seed : int, optional
        Determines order *and* augmentation: the same seed and epoch give the same batches for any number
        of workers. None: drawn from numpy's global generator (0, with a warning, if `distributed`).
    indices : sequence or array of int, optional
        Rows of the file, or of all files, to use, and their order for SEQUENTIAL. None: all.
    pipelines : mapping, optional
        Maps the name of an output to a list of steps (decoder first), a `PipelineSpec`, or None (drop the
        field). Fields not listed, or with an empty list, get their default decoder and, if torch is
        installed, `ToTensor`. The mapping is not modified.
    custom_fields : mapping of str to Field class, optional
        The classes of the file's custom fields (type 255), by field name.
    drop_last : bool, default True
        Drop the last batch if it is incomplete.
    batches_ahead : int, default 3
        Finished batches to keep ready for the consumer; 0 means 1. Light ones (together less than 4 MiB to
        decode) are made on the CPU up to 64 at a time, and are then all ready.
    recompile : bool, default False
        Recompile user-defined operations at each ``iter()``. Pipelines are always read again.
    order_kwargs : mapping, optional
        Further arguments for a custom order class.
    device : None, "auto", "cpu" or a GPU (0, "cuda:1", a torch.device), keyword only
        None (default): the device of each pipeline's last `ToDevice`, else the CPU. "auto": the GPU if it is
        usable, else the CPU, with a warning. Any other value overrides the pipelines.
    jpeg_backend : None, "nvjpeg", "turbo", "turbo2" or "turbo3", keyword only
        The JPEG decoder. None (default): "nvjpeg" for pipelines on a GPU, libjpeg-turbo on the CPU. The
        other names decode on the CPU even for pipelines on a GPU, and the pixels are uploaded. All of them
        are libjpeg-turbo and give the same pixels: "turbo" is simplejpeg's; "turbo2" is the machine's
        libturbojpeg, of which many threads at once make better use; "turbo3" is a libturbojpeg 3, and
        decodes only what is cropped. None selects "turbo3" if there is one, the images are cropped and the
        file has checksums, otherwise "turbo2" if there is a libturbojpeg, otherwise "turbo". Without
        checksums (plain FFCV files) "turbo3" must be requested, because it misses much of the damage that
        decoding the whole image detects. Of JPEGs with an index for crops
        (``RGBImageField(crop_index=True)``), all decode only what a crop needs.
    dct : {"accurate", "fast"}, default "accurate", keyword only
        JPEG arithmetic on the CPU: "accurate" is closest to exact arithmetic, "fast" gives exactly FFCV's
        pixels.
    cache_gb : float, optional, keyword only
        With ``os_cache=False``: memory for the pages of a running epoch, in 10**9 bytes; default 1.1. If an
        order needs more pages at a time than fit (RANDOM over a large file), the rest is read payload by
        payload, with a warning; with 0, everything is.
    gpu_memory_gb : float, optional, keyword only
        GPU memory for batches in flight, in 10**9 bytes, and as much again of pinned host memory. Default: a
        quarter of the GPU's memory, at most 8 GiB. A batch that does not fit is processed in parts. Loaders
        on one GPU share this memory. Finished batches and nvJPEG's own buffers are not included.
    on_error : "raise", "blank", "skip" or callable, default "raise", keyword only
        What to do about a sample that does not match its checksum, cannot be decoded or cannot be read.
        "raise": raise an error with the sample, field and offset. "blank": put zeros in place of the payload
        (pixels before normalisation) and keep the sample's other fields. "skip": replace it by the next good
        sample of the epoch's order. A callable receives the error and returns one of these three; it is
        called in a thread of the loader. See `bad_samples`.
    rank, world_size : int, optional, keyword only
        This process's rank and the number of ranks; both or neither. They imply ``distributed=True``.
    cache_dir : path, optional, keyword only
        A folder, created if missing. FFCV's files do not store what kind of JPEG each image is, which the
        GPU's decoder must know. The first epoch finds out, and saves the result, 7 bytes per image, here for
        later runs; it is ignored once the file has changed. Required for a URL: a folder on a local disk with
        space for the whole file. The copy stays there, processes of one machine share it, and once the object
        has changed and no process uses the copy, it is removed. You may delete files there at any time.
    custom_field_mapper : mapping of str to str, optional, keyword only
        As in FFCV-SSL: maps the name of an output to its source field, like a `PipelineSpec`.
    cpu_share : float from 0 to 1, or "auto"; default 0, keyword only
        The share of the JPEGs of pipelines on a GPU that the worker threads decode on the CPU, while nvJPEG
        decodes the others: for a GPU without JPEG engines. With an H200's, it made loading slower (0.8 times,
        16 cores). Which images these are depends on their numbers alone. "auto" balances both by their
        measured times. If your loop is slower than that, JPEG engines come first, and the CPU decodes only
        what they cannot in time; without engines, the CPU comes first, because your training needs the GPU's
        cores. With "auto", pixels may differ between runs, by as much as the decoders' (1 level with engines,
        3 without).
    paranoid : bool, default False, keyword only
        Detect images that nvJPEG silently skips, and decode them by another decoder. Costs one wait for the
        GPU per batch.

    Raises
    ------
    FormatError
        If a file is not a valid ``.beton`` file, or a sample is a JPEG of more than 178,956,970 pixels,
        unless FFCV_GPU_MAX_PIXELS in the environment is larger.
    ReadError
        If a file cannot be opened or read, or the disk of `cache_dir` is too small for it. While
        iterating: if a sample cannot be read or does not match its checksum (`on_error`), the file was
        truncated, or the rest of a remote file is not available.
    DecodeError
        While iterating: if an image cannot be decoded (`on_error`).
    PipelineError
        If an argument or a pipeline is invalid; the message names the pipeline and the step.
    BackendUnavailable
        If a requested device or backend is not available.
    OutOfGpuMemory
        While iterating: if the GPU's memory or `gpu_memory_gb` is too small.

    Examples
    --------
    >>> loader = Loader("train.beton", 256, order=OrderOption.RANDOM, pipelines={
    ...     "image": [RandomResizedCropRGBImageDecoder((224, 224)), RandomHorizontalFlip(), ToTensor(),
    ...               ToTorchImage(), NormalizeImage(mean, std, np.float16)],
    ...     "label": [IntDecoder(), ToTensor(), Squeeze(1)]})            # doctest: +SKIP
    >>> for images, labels in loader: ...                                # doctest: +SKIP
    """

    def __init__(
        self,
        fname: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        batch_size: int,
        num_workers: int = -1,
        os_cache: bool = DEFAULT_OS_CACHE,
        order: OrderOption | type[TraversalOrder] = OrderOption.SEQUENTIAL,
        distributed: bool = False,
        seed: int | None = None,
        indices: Sequence[int] | npt.NDArray[np.integer[Any]] | None = None,
        pipelines: Mapping[str, Any] | None = None,
        custom_fields: Mapping[str, Any] | None = None,
        drop_last: bool = True,
        batches_ahead: int = 3,
        recompile: bool = False,
        order_kwargs: Mapping[str, Any] | None = None,
        *,
        device: Any = None,
        jpeg_backend: str | None = None,
        dct: str = "accurate",
        gpu_memory_gb: float | None = None,
        cpu_share: float | str = 0.0,
        paranoid: bool = False,
        cache_gb: float | None = None,
        on_error: OnError = "raise",
        rank: int | None = None,
        world_size: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        custom_field_mapper: Mapping[str, str] | None = None,
    ) -> None:
        # FFCV's name; its users' wrappers create a second loader from it: Loader(**loader._args)
        self._args = dict(locals())
        del self._args["self"]
        self.fname = fname.paths if isinstance(fname, Dataset) else checked_names(fname)
        self._args["fname"] = self.fname
        check_flags(os_cache=os_cache, distributed=distributed, drop_last=drop_last)
        check_flags(recompile=recompile, paranoid=paranoid)
        self.batch_size, self.batches_ahead, self.num_workers = batch_size, batches_ahead, num_workers
        self.drop_last, self.recompile = bool(drop_last), bool(recompile)
        self.rank, self.world_size = choose_ranks(bool(distributed), rank, world_size)
        self.distributed = bool(distributed) or rank is not None
        self.seed = choose_seed(seed, self.distributed)
        cache = checked_cache(cache_gb, bool(os_cache)), self.world_size, cache_dir
        del self._args["custom_field_mapper"]
        views = checked_mapping(custom_field_mapper, "custom_field_mapper")
        kinds = checked_mapping(custom_fields, "custom_fields")
        kinds = {name: kinds[name] for name in kinds if views.get(name, name) == name}
        # `filter` and `ResidentLoader` give their loader's open files: a path may mean another one by now.
        self.dataset = (
            fname if isinstance(fname, Dataset) else Dataset(self.fname, kinds, bool(os_cache), *cache)
        )
        self.dataset.check_room()
        self._indices = checked_indices(indices, len(self.dataset), self.dataset.path)
        self._args |= {"custom_fields": kinds, "pipelines": checked_pipelines(pipelines, views)}
        wishes = Wishes(device, jpeg_backend, dct, gpu_memory_gb, bool(paranoid), cpu_share)
        parts = self._indices, self._args["pipelines"], wishes, self.batch_size
        self._assembly = Assembly(self.dataset, *parts)
        self._begin_process()
        self._policy = ErrorPolicy(on_error, len(self.dataset), self._clock)
        self._begin_at_the_first_epoch()
        self.traversal_order = traversal(order, self, checked_mapping(order_kwargs, "order_kwargs"))
        self._programs = self._assembly.programs()
        self._gpu_engine(self._programs, self.dataset)  # raises now if something is missing
        self._assembly.warn(self._programs)

    def _begin_process(self) -> None:
        """Create what has locks: in a forked child, the parent's may be held forever."""
        self._process = os.getpid()
        self._starting = threading.RLock()  # held by the thread that starts an epoch
        self._clock = StageClock()
        self._cpu = CpuDevice(keep=self.batches_ahead + MOST_IN_FLIGHT)
        self._slots = SlotRing(self._cpu)
        self._running: weakref.WeakSet[EpochIterator] = weakref.WeakSet()

    def _follow_fork(self) -> None:
        """Make the loader usable after a fork; does nothing in the process that created it."""
        if os.getpid() == self._process:
            return
        if self._assembly.gpu is not None:
            raise PipelineError(
                f"this loader uses {self._assembly.gpu.name} and was created before this process was forked, "
                "and a GPU cannot be used after a fork; create the Loader in the child, or start the child "
                "with the 'spawn' method"
            )
        self._begin_process()
        self._policy.begin_process(self._clock)

    def _host_backend(self, programs: Sequence[Program]) -> JpegBackend:
        return self._assembly.host_backend([program for program in programs if program.device == "cpu"])

    def _gpu_engine(self, programs: Sequence[Program], dataset: Dataset) -> GpuEngine | None:
        return self._assembly.gpu_engine(programs, dataset, self._slots, self._clock, self.num_workers)

    def __len__(self) -> int:
        """Batches per epoch on this rank; with a custom order, those of the next epoch.

        Those of the whole epoch even if `load_state_dict` makes the next one begin in the middle:
        ``len(iter(loader))`` is what is left of the one that begins.
        """
        return length_of(self)

    def __iter__(self) -> EpochIterator:
        """Start the next epoch, with the pipelines as they are now.

        Epochs may overlap (``zip(loader, loader)``); each has its own threads until it ends. Several threads
        may start epochs of one loader: each gets an epoch of its own.
        """
        self._follow_fork()
        with self._starting:
            return self._epoch(self._coming_epoch())

    def _epoch(self, progress: Progress) -> EpochIterator:
        if self.recompile:
            self.dataset.forget_memos()
        programs = self._assembly.programs()
        if [p.spec for p in programs] != [p.spec for p in self._programs]:
            self._cpu.trim()
        self._programs = programs
        self._compare_with_saved()
        self._assembly.follow_user(programs)
        names = {program.field for program in programs}
        payloads = {name: found for name in names if (found := self.dataset.payloads(name)) is not None}
        course, gpu = progress.course, self._assembly.gpu
        weight = batch_weight(programs, payloads, self.indices, course.samples / max(len(course), 1))
        bundle = bundle_size(programs, weight, gpu)
        in_flight = batches_in_flight(programs, bundle * weight.bytes, bundle, self.num_workers, gpu)
        dataset = self.dataset.in_epoch(course.bundles(bundle), payloads, bundle, in_flight)
        parts = dataset, programs, self._cpu, self._host_backend(programs), self._slots, self._clock
        there = self._gpu_engine(programs, dataset)
        engine = Engine(*parts, self.num_workers, gpu, there, bundle, in_flight)
        planner = Planner(programs, payloads, seed=self.seed, epoch=progress.epoch)
        run = StreamedRun(engine, planner, self._policy, progress, self.batches_ahead)
        return self._begun(EpochIterator(run, progress), progress)

    def bad_samples(self) -> tuple[BadSample, ...]:
        """Return which samples were blanked or replaced, and why: the first 1000; `stats` counts them all.

        A sample with damaged bytes is not tried again by this loader; one that could not be read is.
        """
        return self._policy.bad_samples()

    def filter(self, field_name: str, condition: Callable[[Any], Any]) -> Loader:
        """Return a new `Loader` over the samples that pass a condition; reads all samples once, in order.

        Parameters
        ----------
        field_name : str
            A field or output. Its pipeline is run, and the condition receives each sample's result without
            the batch axis (with the default pipeline, a tensor of shape (1,) for a number).
        condition : callable
            Returns a true value for the samples to keep.

        Raises
        ------
        PipelineError
            If there is no such output, or no sample passes.
        """
        arguments = {**self._args, "fname": self.dataset, "seed": self.seed}
        now = ("batch_size", "num_workers", "drop_last", "batches_ahead", "recompile")
        arguments |= {name: getattr(self, name) for name in now}
        with without_doubts():  # this loader has reported them
            with Loader(**probing(arguments, self.dataset.fields, field_name)) as probe:
                rows = rows_passing(probe, condition)
            return Loader(**{**arguments, "indices": rows})

    def explain(self) -> str:
        """Return, as text, how each output is made: which steps are fused, on which device, or why not."""
        programs = self._assembly.programs()
        engine = self._gpu_engine(programs, self.dataset)
        decoders = [Decoders("cpu", self._host_backend(programs))]
        if engine is not None:
            decoders.append(Decoders(engine.device.name, engine.host_backend, engine.backend, engine.share))
        text = explain(programs, self.dataset, self.indices, decoders, self.num_workers)
        why = self._assembly.fallback
        return Text(f"{text}\non the CPU instead of a GPU: {why}") if why else text

    def stats(self) -> StageStats:
        """Return seconds, calls and samples per stage, and samples per route, since creation or reset."""
        self._follow_fork()
        return self._clock.snapshot()

    def reset_stats(self) -> None:
        """Reset all statistics to zero."""
        self._follow_fork()
        self._clock.reset()

    def profile(self) -> Profile:
        """Start a profile: stages and waits from now on, live, and a sentence that names the bottleneck."""
        self._follow_fork()
        return Profile(self._clock, self.num_workers)

    def trace(self, path: str | os.PathLike[str], max_spans: int = 100_000) -> Timeline:
        """Record a timeline of all threads for Perfetto: ``with loader.trace("trace.json"): ...``.

        Only the last `max_spans` spans are kept, about 250 bytes each. The file is written when the with
        block ends. Spans of light batches that are made at once have the number of the first one.
        """
        self._follow_fork()
        return Timeline(self._clock, path, whole(max_spans, "max_spans", 1))

    def close(self) -> None:
        """Stop running epochs and their threads; the loader can be iterated again."""
        if os.getpid() != self._process:
            return  # a forked child: the epochs are the parent's
        with self._starting:
            running = list(self._running)
        for iterator in running:
            iterator.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
