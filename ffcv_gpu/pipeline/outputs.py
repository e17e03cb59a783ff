"""Turns a user's `pipelines` into one `OutputSpec` per output, without modifying their lists."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

from ffcv_gpu.draws import draw_id
from ffcv_gpu.errors import PipelineError
from ffcv_gpu.pipeline.spec import PipelineSpec
from ffcv_gpu.steps import Decoder, Step, printed
from ffcv_gpu.transforms import ModuleWrapper, ToTensor

__all__ = ["OutputSpec", "is_default", "output_specs"]

#: arguments that do not change what is drawn
FREE = frozenset({"fill", "mean", "output_size", "resize", "threshold"})


@dataclass(frozen=True)
class OutputSpec:
    """One element of the batch: its name, its field, and all of its steps.

    `draws` holds the id of each step's random draw. The draw belongs to the object: where two pipelines
    contain the same object, both get the numbers of its first appearance. With an explicit seed it belongs to
    that seed and the kind of step, wherever the step appears.
    """

    name: str
    field: str
    decoder: Decoder
    steps: tuple[Step, ...]
    draws: Mapping[Step, int]


def output_specs(pipelines: Mapping[str, Any], fields: Mapping[str, Any]) -> tuple[OutputSpec, ...]:
    """Return the outputs in the order of the batch: the file's fields, then extra outputs.

    Parameters
    ----------
    pipelines : mapping of str to list, `PipelineSpec` or None
        As given to the Loader. None drops a field; a field that is not named, or whose list is empty, gets
        its default decoder and, where torch is installed, ToTensor.
    fields : mapping of str to Field
        The file's fields in file order.

    Raises
    ------
    PipelineError
        If a name, a step or its place is invalid; the message names the pipeline and the step.
    """
    wanted = dict.fromkeys(fields, None) | dict(pipelines)
    chosen = {name: spec for name, spec in wanted.items() if not (name in pipelines and spec is None)}
    specs = {name: _resolve(name, spec, fields) for name, spec in chosen.items()}
    owners: dict[Hashable, int] = {}
    draws: dict[Step, int] = {}
    outputs = []
    for name, spec in specs.items():
        field, decoder, steps = _expand(name, spec, specs)
        for place, step in enumerate((decoder, *steps)):
            key = step.draw_key()
            parts = key if isinstance(key, tuple) else (name, place)
            draws[step] = owners.setdefault(key, draw_id(*parts))
        outputs.append(OutputSpec(name, field, decoder, steps, draws))
    if not outputs:
        raise PipelineError("every field of the file is dropped (None); keep at least one")
    _check_agreement(draws)
    return tuple(outputs)


def is_default(spec: Any) -> bool:
    """Return whether `spec`, as given to the Loader (None: nothing), asks for a field's default pipeline."""
    if isinstance(spec, PipelineSpec):
        return spec.default_pipeline
    return spec is None or (isinstance(spec, Sequence) and not len(spec))


def _check_agreement(draws: Mapping[Step, int]) -> None:
    """Reject steps that share a draw and must agree (an image's, its label's) but whose arguments differ."""
    for step, draw in draws.items():
        for other, its in draws.items():
            if its == draw and step.demands and (differing := _differing(step, other)):
                raise PipelineError(
                    f"{step!r} and {other!r} draw the same numbers, but their {differing} differ: the label "
                    "would not match the image; give both the same arguments"
                )


def _differing(step: Step, other: Step) -> str:
    one, two = step.parameters(), other.parameters()
    names = [name for name in one if name in two and name not in FREE]
    return ", ".join(name for name in names if printed(one[name]) != printed(two[name]))


def _resolve(name: str, spec: Any, fields: Mapping[str, Any]) -> PipelineSpec:
    """Return `spec` as a PipelineSpec with decoder and wrapped steps filled in."""
    if isinstance(spec, PipelineSpec):
        source, steps = spec.source, tuple(spec.transforms)
    elif spec is None:
        source, steps = name, ()
    elif isinstance(spec, Sequence) and not isinstance(spec, str):
        source, steps = name, tuple(spec)
    else:
        raise PipelineError(
            f"pipeline {name!r} must be a list of steps, a PipelineSpec or None, not {spec!r}"
        )
    if isinstance(source, str):
        if source not in fields:
            known = ", ".join(map(repr, fields))
            view = f"; a view of one is PipelineSpec({next(iter(fields))!r}, decoder=..., transforms=[...])"
            if isinstance(spec, PipelineSpec):
                view = ""
            raise PipelineError(
                f"pipeline {name!r}: the file has no field {source!r}; its fields are {known}{view}"
            )
        field = fields[source]
    elif isinstance(source, Step):
        source, field = _with_own_code(name, source), None
    else:
        raise PipelineError(
            f"pipeline {name!r} must come from a field, by its name, or from a step of another pipeline, not"
            f" from {source!r}"
        )
    given = spec.decoder if isinstance(spec, PipelineSpec) else None
    decoder, rest = _split_head(steps, field)
    if getattr(decoder, "stands_first", False) and (field is None or given is not None):
        decoder, rest = None, steps  # it is not first: it appends to what comes before
    if given is not None:
        if decoder is not None:
            raise PipelineError(
                f"pipeline {name!r} has two decoders, {given!r} and, first in its transforms,"
                f" {decoder!r}; leave out one"
            )
        decoder = given
    if field is not None:
        decoder = decoder or field.get_decoder_class()()
    if is_default(spec) and (sys.modules.get("torch") or find_spec("torch")):
        rest = (*rest, ToTensor())
    own: Any = _with_own_code(name, decoder)  # possibly a user's own operation
    if isinstance(own, OwnDecoder):
        decoder, reading = own.as_decoder()
        rest = (reading, *rest)
    if decoder is not None and not isinstance(decoder, Decoder):
        raise PipelineError(f"pipeline {name!r}: {decoder!r} is not a decoder")
    return PipelineSpec(source, decoder, [_as_step(name, step) for step in rest])


@runtime_checkable
class OwnDecoder(Protocol):
    """A user's own step that may come first: a decoder of row numbers, and a step that reads those rows."""

    def as_decoder(self) -> tuple[Decoder, Step]:
        """Return the decoder and the step."""


def _split_head(steps: tuple[Any, ...], field: Any) -> tuple[Any, tuple[Any, ...]]:
    head = steps[0] if steps else None
    if getattr(head, "stands_first", False):
        return head, steps[1:]
    # FFCV's rule: a user's own operation is the decoder if the field itself names it
    own = isinstance(head, OwnDecoder) and field is not None and isinstance(head, field.get_decoder_class())
    return (head, steps[1:]) if own or isinstance(head, Decoder) else (None, steps)


def _as_step(name: str, step: Any) -> Step:
    if isinstance(step, type):
        raise PipelineError(f"pipeline {name!r}: {step.__name__} is a class; write {step.__name__}(...)")
    if isinstance(step, Decoder):
        raise PipelineError(f"pipeline {name!r}: {step!r} is a decoder and must come first")
    step = _with_own_code(name, step)
    if not isinstance(step, Step) and not callable(step):
        raise PipelineError(f"pipeline {name!r}: {step!r} is neither a step of ffcv_gpu nor a torch module")
    return step if isinstance(step, Step) else ModuleWrapper(step)


def _with_own_code(name: str, step: Any) -> Any:
    """Return `step`, or the operation that replaces it if its class defines code in FFCV's protocol.

    Rejects a step whose code would silently not run.
    """
    if getattr(type(step), "generate_code", None) is None:
        if isinstance(step, Step) and hasattr(type(step), "declare_state_and_memory"):
            raise PipelineError(
                f"pipeline {name!r}: {type(step).__name__} defines FFCV's declare_state_and_memory(), which"
                " says nothing about a built-in step's result here; define generate_code() too, or neither"
            )
        return step
    if isinstance(step, OwnDecoder):  # slow (20 us); an epoch would begin with one for each step
        return step
    if not isinstance(step, Step):
        raise PipelineError(
            f"pipeline {name!r}: {type(step).__name__} has FFCV's generate_code(), which only runs in a "
            "subclass of ffcv_gpu.pipeline.operation.Operation; derive it from that class"
        )
    try:
        return importlib.import_module("ffcv_gpu.compat.adopted").adopted(step)
    except PipelineError as error:
        raise PipelineError(f"pipeline {name!r}: {error}") from error


def _expand(
    name: str, spec: PipelineSpec, specs: Mapping[str, PipelineSpec]
) -> tuple[str, Decoder, tuple[Step, ...]]:
    """Follow a source that is a step of another pipeline; return field, decoder, steps."""
    if spec.decoder is not None:
        if not isinstance(spec.source, str):
            raise PipelineError(
                f"pipeline {name!r} goes on from {spec.source!r} and cannot have a decoder of its own; leave"
                f" out {spec.decoder!r}, or name a field as the source"
            )
        return spec.source, spec.decoder, tuple(spec.transforms)
    others = {key: other for key, other in specs.items() if other is not spec}
    for other_name, other in others.items():
        its = [step for step in (other.decoder, *other.transforms) if step is not None]
        if any(step is spec.source for step in its):
            field, decoder, steps = _expand(other_name, other, others)
            chain = [decoder, *steps]
            end = next(place for place, step in enumerate(chain) if step is spec.source)
            # a decoder whose work is done by the step after it
            end += getattr(next(iter(steps[end:]), None), "reads_for", None) is spec.source
            return field, decoder, (*steps[:end], *spec.transforms)
    raise PipelineError(f"pipeline {name!r}: its source {spec.source!r} is in no other pipeline")
