"""The Loader: FFCV's constructor, batches of arrays or tensors out."""

from __future__ import annotations

import logging
import math
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from ffcv_gpu.device import CpuDevice
from ffcv_gpu.draws import MAX_EPOCH
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.loader.arguments import (
    checked_cache,
    checked_folder,
    checked_indices,
    checked_pipelines,
    choose_ranks,
    choose_seed,
)
from ffcv_gpu.loader.assembly import Assembly, Wishes
from ffcv_gpu.loader.attributes import FfcvAttributes
from ffcv_gpu.loader.course import Progress
from ffcv_gpu.loader.dataset import Dataset
from ffcv_gpu.loader.explain import explain
from ffcv_gpu.loader.filtering import probing, rows_passing
from ffcv_gpu.loader.gpu_batch import GpuEngine
from ffcv_gpu.loader.iterator import EpochIterator
from ffcv_gpu.loader.job import Engine, batches_in_flight
from ffcv_gpu.loader.policy import BadSample, ErrorPolicy, OnError
from ffcv_gpu.loader.resume import checked_state, describe, differing, save
from ffcv_gpu.loader.streamed import StreamedRun
from ffcv_gpu.loader.traversal import ORDER_MAP, ORDER_TYPE, TraversalOrder, course_of, length_of, traversal
from ffcv_gpu.pipeline.program import Program
from ffcv_gpu.plan import Planner
from ffcv_gpu.sampling import OrderOption
from ffcv_gpu.staging import SlotRing
from ffcv_gpu.steps import IntArray, whole
from ffcv_gpu.trace import Profile, StageClock, StageStats, Timeline

__all__ = ["DEFAULT_OS_CACHE", "ORDER_MAP", "ORDER_TYPE", "Loader", "OrderOption"]

logger = logging.getLogger(__name__)

DEFAULT_OS_CACHE = os.environ.get("FFCV_DEFAULT_CACHE_PROCESS", "0") != "1"


class Loader(FfcvAttributes):
    """Iterates over a ``.beton`` file in batches; each ``iter()`` is one epoch.

    A batch is a tuple in the order of the file's fields (dropped ones left out), then extra outputs in
    the order of `pipelines`. It stays valid as long as you keep it: memory is used again only when no
    array, tensor or view refers to it.

    Parameters
    ----------
    fname : str
        The file; or a URL of an object store (s3, gs, az, http, https; needs ``ffcv-gpu[remote]``). What is
        read of a URL is copied to `cache_dir` in the order of the epoch, somewhat ahead of it; later epochs
        and runs read the copy. Credentials, region and endpoint come from the environment, as obstore finds
        them (``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT``, ``GOOGLE_APPLICATION_CREDENTIALS``, ...).
    batch_size : int
        Samples a batch.
    num_workers : int, default -1
        Threads that read, decode and compose; less than 1: one per CPU this process may use.
    os_cache : bool
        True (default): read through a memory map, so that the system's page cache serves all
        processes. False (not for a URL): for files larger than memory; pages are read ahead in the order of
        the epoch into `cache_gb` of memory, past the system's page cache where that is possible.
    order : OrderOption or TraversalOrder subclass, default SEQUENTIAL
    distributed : bool, default False
        Deal the epoch's order to the ranks of torch.distributed (or of RANK and WORLD_SIZE), padded by
        wrapping so that all ranks see equally many batches. `rank` and `world_size` say it instead.
    seed : int, optional
        Decides order *and* augmentation: the same seed and epoch give the same batches for any number
        of workers. None: drawn from numpy's global generator (0 with a warning if `distributed`).
    indices : sequence of int, optional
        Rows of the file to use, in this order for SEQUENTIAL.
    pipelines : mapping, optional
        Output name -> list of steps (decoder first), `PipelineSpec`, or None (leave the field out).
        Fields not named get their own decoder and, where torch is installed, ToTensor. Never changed.
    custom_fields : mapping of str to Field class, optional
    drop_last : bool, default True
        Leave out the last batch if it is not full.
    batches_ahead : int, default 3
        Batches prepared while the consumer works.
    recompile : bool, default False
        Make the code of users' own operations anew at each ``iter()``. (All else is read anew anyway.)
    order_kwargs : mapping, optional
        Passed to a custom order class.
    device : None, "auto", "cpu" or a GPU, keyword only
        None: what `ToDevice` in each pipeline says, else the CPU. "auto": the GPU if there is one that can
        be used, else the CPU, with a warning. Anything else overrides the pipelines.
    jpeg_backend : None, "nvjpeg", "turbo" or "turbo3", keyword only
        Who decodes the JPEGs of pipelines on a GPU: the GPU, by nvJPEG (None), or the CPU, by libjpeg-turbo,
        before pixels are uploaded. On the CPU it is always libjpeg-turbo: simplejpeg's ("turbo"), or a
        libturbojpeg 3 that decodes only what lies in the crop ("turbo3"). The pixels are the same. None
        takes "turbo3" if there is one, something is cropped, and the file has checksums; without them (plain
        FFCV files) it must be asked for, because it misses much of the damage that a whole decode notices.
    dct : {"accurate", "fast"}, keyword only
        JPEG arithmetic on the CPU: closest to the truth, or FFCV's pixels exactly.
    cache_gb : float, optional, keyword only
        With ``os_cache=False``: what the pages of a running epoch may take, in 10**9 bytes; 1.1 if not
        given. An order that goes through more pages at a time than fit (RANDOM over a large file) reads the
        rest payload by payload, and says so in a warning. 0: no pages at all.
    gpu_memory_gb : float, optional, keyword only
        What batches in flight may take of the GPU, and as much again of pinned memory, in 10**9 bytes;
        a quarter of the GPU's memory, at most 8 GiB, if not given. A batch that does not fit is worked on
        in parts. Loaders on one GPU share what they take. Finished batches and nvJPEG's own buffers come
        on top.
    on_error : "raise", "blank", "skip" or callable, keyword only
        What becomes of a sample whose bytes are not what was written (checksum), that is no JPEG, or that
        the storage does not give. "raise" (default): an error that names sample, field and offset.
        "blank": zeros stand for the payload (pixels before normalisation), all other fields are kept.
        "skip": the next good sample of the epoch's order stands for it. A callable is given the error and
        returns one of the three; it runs in a thread of the loader. See `bad_samples`.
    rank, world_size : int, optional, keyword only
        This process's number and how many there are; imply ``distributed=True``.
    cache_dir : path, optional, keyword only
        A folder, made if need be. Files by FFCV do not say what kind of JPEG each image is, which the GPU's
        decoder wants to know: the first epoch looks. What it finds, 7 bytes an image, is kept here for later
        runs, and counts only while the file is what it was. Required for a URL: a folder on a local disk
        with room for the whole file, whose copy stays there. Processes share it.
    custom_field_mapper : mapping of str to str, optional, keyword only
        FFCV-SSL's: name of an output -> name of the field it comes from; as by `PipelineSpec`.
    paranoid : bool, keyword only
        Look for images that nvJPEG skips without saying so, and decode them in another way. Costs the GPU a
        wait for each batch.

    Raises
    ------
    FormatError
        If the file cannot be trusted.
    PipelineError
        If arguments or pipelines cannot work; the message names the pipeline and the step.
    BackendUnavailable
        If a device or backend that was asked for cannot be used.

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
        fname: str | os.PathLike[str],
        batch_size: int,
        num_workers: int = -1,
        os_cache: bool = DEFAULT_OS_CACHE,
        order: OrderOption | type[TraversalOrder] = OrderOption.SEQUENTIAL,
        distributed: bool = False,
        seed: int | None = None,
        indices: Sequence[int] | None = None,
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
        paranoid: bool = False,
        cache_gb: float | None = None,
        on_error: OnError = "raise",
        rank: int | None = None,
        world_size: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        custom_field_mapper: Mapping[str, str] | None = None,
    ) -> None:
        # FFCV's name for them, by which wrappers of its users make a second loader: Loader(**loader._args)
        self._args = dict(locals())
        del self._args["self"]
        self.fname = os.fspath(fname)
        self.batch_size = whole(batch_size, "batch_size", 1)
        self.batches_ahead = whole(batches_ahead, "batches_ahead", 1)
        workers = whole(num_workers, "num_workers", -math.inf)
        self.num_workers = workers if workers >= 1 else len(os.sched_getaffinity(0))
        self.drop_last, self.recompile = bool(drop_last), bool(recompile)
        self.rank, self.world_size = choose_ranks(bool(distributed), rank, world_size)
        self.distributed = bool(distributed) or rank is not None
        self.seed = choose_seed(seed, self.distributed)
        cache = checked_cache(cache_gb, bool(os_cache)), self.world_size, checked_folder(cache_dir)
        views = self._args.pop("custom_field_mapper") or {}
        kinds = {name: kind for name, kind in (custom_fields or {}).items() if views.get(name, name) == name}
        self.dataset = Dataset(self.fname, kinds, bool(os_cache), *cache)
        self._indices = checked_indices(indices, len(self.dataset), self.fname)
        self._args |= {"custom_fields": kinds, "pipelines": checked_pipelines(pipelines, views)}
        wishes = Wishes(device, jpeg_backend, dct, gpu_memory_gb, bool(paranoid))
        parts = self.dataset, self.indices, self._args["pipelines"], wishes, self.batch_size
        self._assembly = Assembly(*parts)
        self._begin_process()
        self._policy = ErrorPolicy(on_error, len(self.dataset), self._clock)
        self.next_epoch = 0
        self.traversal_order = traversal(order, self, dict(order_kwargs or {}))
        self._done = 0  # positions of the next epoch that `load_state_dict` said are done
        self._saved_pipelines: dict[str, str] | None = None
        self._progress: Progress | None = None
        self._programs = self._assembly.programs()
        self._gpu_engine(self._programs, self.dataset)  # what is missing shows now
        self._assembly.warn(self._programs)

    def _begin_process(self) -> None:
        """Make what has locks: in a forked child, those of the parent may be held for ever."""
        self._process = os.getpid()
        self._clock = StageClock()
        self._device = CpuDevice(keep=self.batches_ahead + 3)
        self._slots = SlotRing(self._device)
        self._running: weakref.WeakSet[EpochIterator] = weakref.WeakSet()

    def _follow_fork(self) -> None:
        """Make a loader that came through a fork usable; does nothing in the process that made it."""
        if os.getpid() == self._process:
            return
        if self._assembly.gpu is not None:
            raise PipelineError(
                f"this loader works on {self._assembly.gpu.name} and was made before this process forked, "
                "and no GPU survives a fork; make it in the child, or start the child by 'spawn'"
            )
        self._begin_process()
        self._policy.begin_process(self._clock)

    def _gpu_engine(self, programs: Sequence[Program], dataset: Dataset) -> GpuEngine | None:
        common = (self._slots, self._clock, self.num_workers)
        return self._assembly.gpu_engine(programs, dataset, *common)

    def next_traversal_order(self) -> IntArray:
        """Return the order of the coming epoch: rows of the file, int64, this rank's share."""
        return np.asarray(self.traversal_order.sample_order(self.next_epoch), dtype=np.int64)

    def __len__(self) -> int:
        """Batches an epoch, on this rank; of an order of your own, the coming epoch's."""
        return length_of(self)

    def __iter__(self) -> EpochIterator:
        """Begin the next epoch, with the pipelines as they are now.

        Epochs may run side by side (``zip(loader, loader)``); each has threads of its own until it ends.
        """
        self._follow_fork()
        return self._epoch(self._coming_epoch())

    def _epoch(self, progress: Progress) -> EpochIterator:
        if self.recompile:
            self.dataset.forget_memos()
        programs = self._assembly.programs()
        if [p.spec for p in programs] != [p.spec for p in self._programs]:
            self._device.trim()
        self._programs = programs
        self._compare_with_saved()
        names = {program.field for program in programs}
        located = {name: self.dataset.payloads(name) for name in names}
        payloads = {name: found for name, found in located.items() if found is not None}
        in_flight = batches_in_flight(self._assembly.gpu)
        dataset = self.dataset.in_epoch(progress.course.batches(), payloads, in_flight)
        common = (self._slots, self._clock, self.num_workers)
        engine = Engine(
            *(dataset, programs, self._device, self._assembly.host_backend(programs), *common),
            gpu=self._assembly.gpu,
            gpu_engine=self._gpu_engine(programs, dataset),
            in_flight=in_flight,
        )
        planner = Planner(programs, payloads, seed=self.seed, epoch=progress.epoch)
        run = StreamedRun(engine, planner, self._policy, progress, self.batches_ahead)
        return self._begun(EpochIterator(run, progress), progress)

    # ---- where an epoch stands

    def _coming_epoch(self) -> Progress:
        return Progress(self.next_epoch, course_of(self, self.next_epoch, self._done))

    def _begun(self, iterator: EpochIterator, progress: Progress) -> EpochIterator:
        self._running.add(iterator)
        self._progress, self._done, self.next_epoch = progress, 0, progress.epoch + 1
        return iterator

    def set_epoch(self, epoch: int) -> None:
        """Let the next ``iter()`` be this epoch, from its beginning (or from where it was resumed)."""
        epoch = whole(epoch, "set_epoch: epoch", 0, MAX_EPOCH)
        if epoch != self.next_epoch:
            self._done = 0
        self.next_epoch, self._progress = epoch, None

    def state_dict(self) -> dict[str, Any]:
        """Return where the epoch stands, small and fit for `json.dumps`; the same on every rank.

        What was handed to you is done, also of an epoch that you left early; batches made ahead are not.
        With several epochs side by side it is the one begun last. At the end of an epoch it is the begin of
        the next one.
        """
        place = (self.next_epoch, self._done) if self._progress is None else self._progress.place
        return save(self, place, describe(self._programs))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Let the next ``iter()`` go on where `state` was taken, and ``state["epoch"]`` be its epoch.

        Batch size, number of ranks, workers and device may be others than they were: the rest of the epoch
        is dealt anew. Samples, order and augmentation are those of the epoch had it not been interrupted.
        Without an explicit ``seed=`` the loader takes the state's.

        Raises
        ------
        PipelineError
            If the state was saved for another file, other indices, another order or another seed.
        """
        state = checked_state(self, state, self._args["seed"] is not None)
        self.seed = state["seed"]
        self.next_epoch, self._done, self._progress = state["epoch"], state["done"], None
        self._saved_pipelines = dict(state["pipelines"])

    def _compare_with_saved(self) -> None:
        """Warn if the rest of a resumed epoch is made by other pipelines than its beginning."""
        saved, self._saved_pipelines = self._saved_pipelines, None
        if saved is None or not self._done:
            return
        now = describe(self._programs)
        for name in differing(saved, now):
            logger.warning(
                "epoch %d is resumed with another pipeline for %r: %s; it was begun with: %s",
                *(self.next_epoch, name, now.get(name, "none"), saved.get(name, "none")),
            )

    def bad_samples(self) -> tuple[BadSample, ...]:
        """Return which samples were blanked or replaced, and why; the first 1000, `stats` counts them all.

        What stands here for its bytes (not for a failed read) is not tried again by this loader.
        """
        return self._policy.bad_samples()

    def filter(self, field_name: str, condition: Callable[[Any], Any]) -> Loader:
        """Return a new Loader of the samples whose value passes; reads them once, in this order.

        Parameters
        ----------
        field_name : str
            A field or output. Its pipeline is run; the condition is given what comes out, without the batch
            axis (a tensor of shape (1,) for a number with the default pipeline).
        condition : callable
            Returns true for the samples to keep.

        Raises
        ------
        PipelineError
            If there is no such output, or no sample passes.
        """
        arguments = {**self._args, "seed": self.seed}
        with Loader(**probing(arguments, self.dataset.fields, field_name)) as probe:
            rows = rows_passing(probe, condition)
        return Loader(**{**arguments, "indices": rows})

    def explain(self) -> str:
        """Return, as text, what happens to each output: which steps are fused, where, and why not."""
        programs = self._assembly.programs()
        engine = self._gpu_engine(programs, self.dataset)
        backends = {"cpu": self._assembly.host_backend(programs)}
        if engine is not None:
            backends[engine.device.name] = engine.backend
        text = explain(programs, self.dataset, self.indices, backends, self.num_workers)
        why = self._assembly.fallback
        return f"{text}\non the CPU instead of a GPU: {why}" if why else text

    def stats(self) -> StageStats:
        """Return seconds, calls and samples per stage since the loader was made, and samples per route."""
        return self._clock.snapshot()

    def reset_stats(self) -> None:
        """Set every statistic back to zero."""
        self._clock.reset()

    def profile(self) -> Profile:
        """Begin a profile: stages and waits from now on, live, and a sentence that names the bottleneck."""
        return Profile(self._clock, self.num_workers)

    def trace(self, path: str | os.PathLike[str], max_spans: int = 100_000) -> Timeline:
        """Record what happens inside ``with loader.trace("trace.json"):`` for Perfetto, thread by thread.

        At most the last `max_spans` spans are kept, some 250 bytes each. The file is written at the end.
        """
        return Timeline(self._clock, path, whole(max_spans, "max_spans", 1))

    def close(self) -> None:
        """End running epochs and their threads; the loader can be iterated again."""
        for iterator in list(self._running):
            iterator.close()

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
