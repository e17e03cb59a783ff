"""Sorts the steps of an output into fused stages and a tail; what cannot stand where it stands is refused.

What the user wrote is what is computed. A stage is one sampling followed by any number of mirrors,
shifts, erasures and lookups: these commute with writing the output, so one launch does them all. A
second sampling starts a second stage on the first one's uint8 images. The first step that needs the
finished batch (a torch module, a view) closes the fused part; what follows works on whole batches.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.pipeline.outputs import OutputSpec
from ffcv_gpu.pipeline.program import Action, FusedStage, Program, Tail
from ffcv_gpu.pipeline.table import ValueTable
from ffcv_gpu.steps import (
    ArrayStep,
    Erase,
    Lookup,
    Mirror,
    Represent,
    Sampling,
    Shift,
    Source,
    Step,
    ValueSpec,
)

__all__ = ["fuse"]


def fuse(output: OutputSpec, source: Source, device: str, container: str = "numpy") -> Program:
    """Return the program of one output.

    Parameters
    ----------
    output : OutputSpec
    source : Source
        What the file says about the output's field.
    device : str
        Where the pipeline runs: ``"cpu"`` or ``"cuda:N"``.
    container : str
        What arrays are there; see `ValueSpec`.

    Raises
    ------
    PipelineError
        If a step cannot stand where it stands; names the output and the step.
    """
    try:
        fuser = _Fuser(output, source, device, container)
        for step in output.steps:
            fuser.add(step)
        return fuser.program()
    except PipelineError as error:
        raise PipelineError(f"pipeline {output.name!r}: {error}") from error
    except BaseException as error:
        error.add_note(f"in pipeline {output.name!r}")  # a user's own step raised it
        raise


@dataclass
class _Stage:
    """A stage being collected."""

    sampling: Sampling
    frame: tuple[int, int]
    table: ValueTable
    actions: list[Action] = field(default_factory=list)

    def untouched(self) -> bool:
        return self.sampling.frame() is None and not self.actions and not self.table.used


class _Fuser:
    def __init__(self, output: OutputSpec, source: Source, device: str, container: str) -> None:
        self.output, self.source, self.device = output, source, device
        self.place = {"device": device, "container": container}
        self.stages: list[_Stage] = []
        self.tail: list[Tail] = []
        self.notes: list[tuple[str, str]] = []
        self.deferred: PipelineError | None = None
        self.spec = self._first_spec()
        self.fused = self.spec

    def _first_spec(self) -> ValueSpec:
        decoder = self.output.decoder
        if not isinstance(decoder, Sampling):
            self._note(decoder, "reads the column")
            return decoder.first_spec(self.source).with_(**self.place)
        try:
            spec = decoder.first_spec(self.source).with_(**self.place)
        except PipelineError as error:
            # Images of many sizes are fine for a decoder of whole images if a crop follows at once.
            if self.source.heights is None or decoder.frame() is not None or not self._crop_follows():
                raise
            unknown = ValueSpec((1, 1, self.source.channels), "uint8", layout="HWC")
            self.deferred, spec = error, unknown.with_(**self.place)
        self._open_stage(decoder, spec)
        return spec

    def _crop_follows(self) -> bool:
        return bool(self.output.steps) and isinstance(self.output.steps[0], Sampling)

    def _note(self, step: Step, text: str) -> None:
        self.notes.append((repr(step), text))

    def _open_stage(self, sampling: Sampling, spec: ValueSpec) -> None:
        height, width, channels = spec.shape or (0, 0, 0)
        self.stages.append(_Stage(sampling, (height, width), ValueTable(channels)))
        self._note(sampling, f"fused launch {len(self.stages)}")

    def add(self, step: Step) -> None:
        """Take the next step of the list."""
        step = step.for_output(self.source, self.spec, self.output.draws[step])
        if isinstance(step, Sampling):
            self._sample(step)
        elif isinstance(step, Mirror | Shift | Erase):
            self._act(step)
        elif isinstance(step, Lookup):
            self._look_up(step)
        elif isinstance(step, Represent):
            self._represent(step)
        elif isinstance(step, ArrayStep):
            self._append(step, step.out_spec(self.spec), step.why)
        else:
            raise PipelineError(f"{step!r} is of no kind that a pipeline knows")

    def _need_open(self, step: Step) -> _Stage:
        if not self.stages:
            raise PipelineError(f"{step!r} works on images, but field {self.source.name!r} is none")
        if self.tail:
            raise PipelineError(
                f"{step!r} works on images as they are decoded; move it before {self.tail[0].step!r}"
            )
        return self.stages[-1]

    def _sample(self, step: Sampling) -> None:
        stage = self._need_open(step)
        if self.spec.dtype != "uint8" or stage.table.used:
            raise PipelineError(
                f"{step!r} resamples uint8 images; put it before the steps that change the values"
            )
        height, width = step.frame() or stage.frame
        channels = stage.table.channels
        if stage.untouched() and len(self.stages) == 1:
            self.stages.pop()
            self.deferred = None
        shape = (channels, height, width) if self.spec.layout == "CHW" else (height, width, channels)
        self.spec = self.spec.with_(shape=shape)
        self._open_stage(step, self.spec.with_(shape=(height, width, channels)))

    def _act(self, step: Mirror | Shift | Erase) -> None:
        stage = self._need_open(step)
        if isinstance(step, Erase):
            step.check(*stage.frame)
        if not isinstance(step, Mirror):
            stage.table.fill_bits(step.fill, repr(step))
        stage.actions.append(Action(step, self.output.draws[step], stage.table.used))
        self._note(step, f"fused launch {len(self.stages)}")

    def _look_up(self, step: Lookup) -> None:
        dtype = step.out_dtype(self.spec.dtype or "")
        if not self.stages or self.tail or not ValueTable.can_hold(dtype):
            self._append(step, self.spec.with_(dtype=dtype), "works on the finished batch")
            return
        stage = self.stages[-1]
        if any(action.late for action in stage.actions):
            raise PipelineError(f"{step!r} follows an erasure of converted values; put the erasure after it")
        stage.table = stage.table.mapped(step, dtype)
        self.spec = self.spec.with_(dtype=dtype)
        self._note(step, f"fused launch {len(self.stages)}, as a table of 256 values a channel")

    def _represent(self, step: Represent) -> None:
        spec = step.out_spec(self.spec)
        fusable = self.stages and not self.tail and spec.device == self.device
        if fusable or (spec.device == self.spec.device and spec == self.spec):
            self.spec = spec
            self._note(
                step, f"fused launch {len(self.stages)} writes it so" if self.stages else "nothing to do"
            )
        else:
            self._append(step, spec, "hands over the finished batch")

    def _append(self, step: ArrayStep | Represent | Lookup, spec: ValueSpec, why: str) -> None:
        if not self.tail:
            self.fused = self.spec
        self.tail.append(Tail(step, self.spec))
        self.spec = spec
        self._note(step, why)

    def program(self) -> Program:
        """Return what was collected."""
        if self.deferred is not None:
            raise self.deferred
        fused = self.fused if self.tail else self.spec
        stages = tuple(self._finished(stage, fused) for stage in self.stages)
        if self.spec.dtype == "bfloat16" and self.spec.container == "numpy":
            raise PipelineError("numpy has no bfloat16; put ToTensor() into the pipeline, or choose float32")
        return Program(
            self.output.name,
            self.output.field,
            self.output.decoder,
            stages,
            fused,
            tuple(self.tail),
            self.spec,
            self.device,
            tuple(self.notes),
        )

    def _finished(self, stage: _Stage, fused: ValueSpec) -> FusedStage:
        last = stage is self.stages[-1]
        planar = last and fused.layout == "CHW" and not fused.channels_last
        draw = self.output.draws[stage.sampling]
        actions = tuple(stage.actions)
        return FusedStage(
            stage.sampling, draw, stage.frame, actions, stage.table.bits(), stage.table.dtype, planar
        )
