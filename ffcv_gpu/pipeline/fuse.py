"""Sorts the steps of an output into fused stages and a tail; rejects steps in invalid places.

The steps run in the order the user wrote. A fused stage is one sampling followed by any number of mirrors,
shifts, erasures, colour operations and lookups: these commute with writing the output, so one launch does
them all. A second sampling starts a second stage on the first one's uint8 images. So do steps that need more
than the pixel itself: a contrast, whose mean is measured on finished images, and every `ImagePass`, which is
a separate launch between two fused ones. The first step that needs the finished batch (a torch module, a
view) ends this part; the steps after it work on whole batches. A step on images among those (a flip after a
user's own operation) starts new launches, on the batch.
"""

from __future__ import annotations

import importlib
from dataclasses import replace

import numpy as np

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import NDArrayDecoder, SimpleRGBImageDecoder
from ffcv_gpu.kernels.codes import CONTRAST
from ffcv_gpu.kernels.pass_codes import PASS_PAD, PASS_WARP
from ffcv_gpu.pipeline.open_stage import Finished, OpenStage
from ffcv_gpu.pipeline.outputs import OutputSpec
from ffcv_gpu.pipeline.program import Action, PassStage, Program, Tail
from ffcv_gpu.pipeline.table import ValueTable
from ffcv_gpu.steps import (
    ArrayStep,
    Colour,
    Erase,
    ImagePass,
    Lookup,
    Mirror,
    Represent,
    Sampling,
    Shift,
    Source,
    Step,
    ValueSpec,
)

__all__ = ["fuse", "works_on_images"]

#: steps that work on images in launches, alone or several in one
IMAGE_KINDS = Sampling | ImagePass | Colour | Mirror | Shift | Erase


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
        The kind of array; see `ValueSpec`.

    Raises
    ------
    PipelineError
        If a step is in an invalid place; the message names the output and the step.
    """
    try:
        return _Fuser(output, source, device, container).program()
    except PipelineError as error:
        raise type(error)(f"pipeline {output.name!r}: {error}") from error
    except BaseException as error:
        error.add_note(f"in pipeline {output.name!r}")  # a user's own step raised it
        raise


def works_on_images(step: Step) -> bool:
    """Return True if a launch does what the step does, on images."""
    # of the class: a user's own operation may have an attribute called `parts`
    return any(isinstance(part, IMAGE_KINDS) for part in type(step).parts(step))


def by_table(step: Step) -> bool:
    """Return True for a function of 8-bit values that a launch looks up in a table."""
    return isinstance(step, Lookup) and ValueTable.can_hold(step.out_dtype("uint8"))


class _Fuser:
    def __init__(self, output: OutputSpec, source: Source, device: str, container: str) -> None:
        self.output, self.source, self.device = output, source, device
        self.place = {"device": device, "container": container}
        self.wide = "" if source.dtype == "uint8" else source.dtype
        self.stages: list[OpenStage | PassStage] = []
        self.tail: list[Tail] = []
        self.notes: list[tuple[str, str]] = []
        self.deferred: PipelineError | None = None
        self.spec = self._first_spec()
        self.fused = self.spec
        for place, step in enumerate(output.steps):
            self._read_as_images(step)
            if self._begins_again(step):
                self._begin_again(output.steps[place:])
                break
            self._take(step)

    def _first_spec(self) -> ValueSpec:
        decoder = self.output.decoder
        if not isinstance(decoder, Sampling):
            stored = getattr(self.source.field, "pointers", ())  # numbers have none: they lie in the metadata
            self._note(decoder, "reads each sample's bytes" if stored else "reads the column")
            return decoder.first_spec(self.source).with_(**self.place)
        try:
            spec = decoder.first_spec(self.source).with_(**self.place)
        except PipelineError as error:
            # A decoder of whole images accepts images of many sizes if a crop follows directly.
            if self.source.heights is None or decoder.frame() is not None or not self._crop_follows():
                raise
            unknown = ValueSpec((1, 1, self.source.channels), self.source.dtype, layout="HWC")
            self.deferred, spec = error, unknown.with_(**self.place)
        if isinstance(decoder, ImagePass):
            self._open_pass(decoder, self.output.draws[decoder], spec)
        else:
            self._open_stage(decoder, self.output.draws[decoder], spec)
        return spec

    def _crop_follows(self) -> bool:
        return bool(self.output.steps) and isinstance(self.output.steps[0], Sampling)

    def _note(self, step: Step, text: str) -> None:
        self.notes.append((repr(step), text))

    def _open_stage(self, sampling: Sampling, draw: int, spec: ValueSpec) -> None:
        height, width, channels = spec.shape or (0, 0, 0)
        resize = "nearest" if self.source.nearest else sampling.resize
        if self.wide and resize == "antialias":
            raise PipelineError(f"{sampling!r}: {self.wide} images support only resize='area'")
        table = ValueTable(channels)
        self.stages.append(OpenStage(sampling, draw, (height, width), table, resize, self.wide))
        how = ", nearest pixel" if self.source.nearest else ""
        where = f"one by one in OpenCV ({self.wide})" if self.wide else f"fused launch {len(self.stages)}"
        self._note(sampling, where + how + sampling.remark())

    def _open_pass(self, step: ImagePass, draw: int, spec: ValueSpec) -> None:
        height, width, channels = spec.shape or (0, 0, 0)
        step.check(height, width, channels)
        self._refuse_wide(step)
        if step.kernel not in (PASS_PAD, PASS_WARP):  # these two only copy pixels
            self._refuse_names(step)
        self.stages.append(PassStage(step, draw, (height, width), channels))
        self._note(step, f"launch {len(self.stages)} of its own: {step.why}")

    def _continue(self) -> OpenStage:
        """Open a fused stage on the images of the last one."""
        last = self.stages[-1]
        stage = OpenStage(Finished(), 0, last.frame, ValueTable(last.channels))
        self.stages.append(stage)
        return stage

    def _fused(self) -> OpenStage:
        """Return the stage that takes the next action."""
        last = self.stages[-1]
        return last if isinstance(last, OpenStage) else self._continue()

    def _read_as_images(self, step: Step) -> None:
        """Let FFCV's steps on images work on stored arrays of three axes, as there."""
        arrays = isinstance(self.output.decoder, NDArrayDecoder) and self.device == "cpu"
        if arrays and self.spec.may_be_images and works_on_images(step):
            self.spec = self.spec.with_(layout="HWC")

    def _begins_again(self, step: Step) -> bool:
        """True for a step on images after the finished batch, if a launch can take the batch as it is."""
        now, shape = self.spec, self.spec.shape or ()
        plain = (now.dtype, now.container, now.layout) == ("uint8", "numpy", "HWC")
        finished = bool(self.tail) or not self.stages
        there = finished and self.device == "cpu" and plain and len(shape) == 3 and shape[2] in (1, 3, 4)
        return there and (works_on_images(step) or any(map(by_table, type(step).parts(step))))

    def _begin_again(self, steps: tuple[Step, ...]) -> None:
        """Take the rest of the list as a separate program, whose source is the batch."""
        height, width, channels = self.spec.shape or (0, 0, 0)
        sizes = np.array([[height], [width]])
        source = replace(self.source, heights=sizes[0], widths=sizes[1], channels=channels, dtype="uint8")
        whole = SimpleRGBImageDecoder()
        draws = {**self.output.draws, whole: 0}
        output = replace(self.output, decoder=whole, steps=steps, draws=draws)
        rest = _Fuser(output, source, "cpu", "numpy").program()
        # a layer above knows how to launch it
        again = importlib.import_module("ffcv_gpu.compat.again").ImagesAgain(rest)
        if not self.tail:
            self.fused = self.spec
        self.tail += [Tail(again, self.spec), *rest.tail]
        self.notes += [(step, f"on the finished batch, in one thread: {how}") for step, how in rest.notes[1:]]
        self.spec = rest.spec

    def _take(self, step: Step) -> None:
        """Take the next step of the list."""
        draw = self.output.draws[step]
        for part in step.for_output(self.source, self.spec, draw).parts():
            self._add(part, draw)

    def _add(self, step: Step, draw: int) -> None:
        if isinstance(step, Sampling):
            self._sample(step, draw)
        elif isinstance(step, ImagePass):
            self._pass(step, draw)
        elif isinstance(step, Colour):
            self._colour(step, draw)
        elif isinstance(step, Mirror | Shift | Erase):
            self._act(step, draw)
        elif isinstance(step, Lookup):
            self._look_up(step)
        elif isinstance(step, Represent):
            self._represent(step)
        elif isinstance(step, ArrayStep):
            if self.spec.ragged and not step.takes_ragged:
                raise PipelineError(
                    f"{step!r} works on arrays of one shape; give {self.output.decoder!r} pad_to=, or put a"
                    " torch module in its place, which gets the Ragged"
                )
            self._append(step, step.out_spec(self.spec), step.why)
        else:
            raise PipelineError(f"{step!r} is not a kind of step that a pipeline knows")

    def _need_open(self, step: Step) -> None:
        if not self.stages and self.spec.layout:
            raise PipelineError(f"{step!r} works on uint8 images of 1, 3 or 4 channels, not on {self.spec}")
        if not self.stages:
            raise PipelineError(f"{step!r} works on images, but field {self.source.name!r} holds none")
        if self.tail:
            raise PipelineError(
                f"{step!r} cannot work on the finished batch; move it before {self.tail[0].step!r}"
            )

    def _need_bytes(self, step: Step, does: str) -> None:
        self._need_open(step)
        if self.spec.dtype != (self.wide or "uint8"):
            raise PipelineError(
                f"{step!r} {does} uint8 images; put it before the steps that change the values"
            )

    def _refuse_wide(self, step: Step) -> None:
        if self.wide:
            raise PipelineError(
                f"{step!r} works on 8-bit images, but field {self.source.name!r} holds {self.wide}; do it on"
                " the finished batch, in a torch module"
            )

    def _refuse_names(self, step: Step) -> None:
        """Reject steps that compute new values if the field's values are class numbers."""
        if self.source.nearest:
            raise PipelineError(
                f"{step!r} computes new values, but field {self.source.name!r} holds class numbers; leave it"
                " out of this pipeline"
            )

    def _colour(self, step: Colour, draw: int) -> None:
        self._need_bytes(step, "works on")
        self._refuse_wide(step)
        self._refuse_names(step)
        stage = self._fused()
        if stage.table.channels not in (1, 3):
            raise PipelineError(
                f"{step!r} works on images of 1 or 3 channels, but field {self.source.name!r} has "
                f"{stage.table.channels}"
            )
        measured = ""
        if step.code == CONTRAST:
            stage = stage if stage.measurable() else self._continue()
            measured = ", after a small launch that measures the mean of the grey image"
        stage.actions.append(Action(step, draw, late=False))
        self._note(step, f"fused launch {len(self.stages)}{measured}")

    def _pass(self, step: ImagePass, draw: int) -> None:
        self._need_bytes(step, "works on")
        shape = (*self.stages[-1].frame, self.stages[-1].channels)
        self._open_pass(step, draw, self.spec.with_(shape=shape))

    def _sample(self, step: Sampling, draw: int) -> None:
        self._need_bytes(step, "resamples")
        stage = self.stages[-1]
        untouched = isinstance(stage, OpenStage) and stage.untouched() and len(self.stages) == 1
        if not untouched:
            self._refuse_wide(step)
        height, width = step.frame() or stage.frame
        channels = stage.channels
        if untouched:
            self.stages.pop()
            self.deferred = None
        shape = (channels, height, width) if self.spec.layout == "CHW" else (height, width, channels)
        self.spec = self.spec.with_(shape=shape)
        self._open_stage(step, draw, self.spec.with_(shape=(height, width, channels)))

    def _act(self, step: Mirror | Shift | Erase, draw: int) -> None:
        if self._after_operation():
            again = importlib.import_module("ffcv_gpu.compat.again").MovedAgain(step, draw)
            self._append(again, again.out_spec(self.spec), again.why)
            return
        self._need_open(step)
        if not isinstance(step, Mirror):
            self._refuse_wide(step)
        stage = self._fused()
        if not isinstance(step, Mirror):
            step.check(*stage.frame)
            if not step.only_moves:
                stage.table.fill_bits(step.fill, repr(step))
        if isinstance(step, Shift) and step.only_moves and not stage.reflectable():
            self._need_bytes(step, "behind another shift or an erasure works on")
            stage = self._continue()
        late = stage.table.used and not step.only_moves  # it has no values of its own
        stage.actions.append(Action(step, draw, late))
        self._note(step, f"fused launch {len(self.stages)}")

    def _after_operation(self) -> bool:
        """True for images of another type, stored or a user's operation's, on which FFCV's steps go on."""
        now, own = self.spec, any(step.needs_host for step in self.output.steps) and bool(self.tail)
        images = (now.container, now.layout, len(now.shape or ())) == ("numpy", "HWC", 3)
        return (own or not self.stages) and images and self.device == "cpu"

    def _look_up(self, step: Lookup) -> None:
        dtype = step.out_dtype(self.spec.dtype or "")
        fusable = self.stages and not self.wide and ValueTable.can_hold(dtype)
        if self.tail or not fusable:
            if dtype == "bfloat16" and self.spec.container == "numpy":
                raise PipelineError(f"{step!r}: numpy has no bfloat16; put ToTensor() before it")
            self._append(step, self.spec.with_(dtype=dtype), "works on the finished batch")
            return
        stage = self._fused()
        late = [action.step for action in stage.actions if action.late]
        if late:
            raise PipelineError(
                f"{step!r} follows {late[0]!r}, which fills with converted values; put that after it"
            )
        stage.table = stage.table.mapped(step, dtype)
        self.spec = self.spec.with_(dtype=dtype)
        self._note(step, f"fused launch {len(self.stages)}, as a table of 256 values per channel")

    def _represent(self, step: Represent) -> None:
        spec = step.out_spec(self.spec)
        fusable = self.stages and not self.tail and spec.device == self.device
        if fusable or (spec.device == self.spec.device and spec == self.spec):
            self.spec = spec
            self._note(
                step, f"fused launch {len(self.stages)}, on writing" if self.stages else "nothing to do"
            )
        else:
            self._append(step, spec, "hands over the finished batch")

    def _append(self, step: ArrayStep | Represent | Lookup, spec: ValueSpec, why: str) -> None:
        if self.spec.dtype == "bfloat16" and self.spec.container == "numpy":
            raise PipelineError(f"numpy has no bfloat16; put ToTensor() before {step!r}")
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
        if self.stages:
            self._fused()
        planar = fused.layout == "CHW" and not fused.channels_last
        stages = tuple(
            stage
            if isinstance(stage, PassStage)
            else stage.closed(planar=planar and stage is self.stages[-1])
            for stage in self.stages
        )
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
