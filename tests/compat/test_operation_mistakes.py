"""Operations that cannot work, or fail: errors that name them, when the loader is made if that can be."""

import traceback
from dataclasses import replace

import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.transforms import (
    Convert,
    RandomBrightness,
    RandomHorizontalFlip,
    ToTensor,
)
from tests.compat.operations import (
    Corner,
    Invert,
    column,
    images_of,
)


class Uncompilable(Corner):
    def generate_code(self):
        def call(images, dst):
            return some_name_that_is_nowhere(images)  # noqa: F821

        return call


class Asserts(Corner):
    def declare_state_and_memory(self, previous_state):
        return replace(previous_state, jit_mode=True), None


class Raises(Corner):
    def declare_state_and_memory(self, previous_state):
        raise KeyError("on purpose")


class FailsLater(Invert):
    def generate_code(self):
        def fail(images, memory):
            raise OverflowError("on purpose")

        return fail


class OnlyState(Corner):
    def declare_state_and_memory(self, previous_state):
        return previous_state


class NoFunction(Corner):
    def generate_code(self):
        return None


class Forgets(Invert):
    """Returns nothing."""

    def generate_code(self):
        def forget(images, memory):
            images[:] = 0

        return forget


class NoQuery(Corner):
    def declare_state_and_memory(self, previous_state):
        return previous_state, (12, 12)


class Counted(Corner):
    """FFCV-SSL's: told the number of the batch."""

    def generate_code(self):
        def count(images, memory, counter):
            return memory

        count.with_counter = True
        return count


class ForeignOperation:
    """As a class of the real FFCV looks."""

    def generate_code(self):
        return None


class OldBrightness(RandomBrightness):
    def generate_code(self):
        return None


class OldFlip(RandomHorizontalFlip):
    generate_code = OldBrightness.generate_code


class DeclaringFlip(RandomHorizontalFlip):
    """Its declaration would be passed over in silence."""

    declare_state_and_memory = Corner.declare_state_and_memory


class SuperFlip(RandomHorizontalFlip):
    def generate_code(self):
        return super().generate_code()


class Twice(Corner):
    """Asks a built-in step for its code."""

    def declare_state_and_memory(self, previous_state):
        return RandomHorizontalFlip().declare_state_and_memory(previous_state)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([Uncompilable()], "Uncompilable.*numba.*some_name_that_is_nowhere.*jit_mode=False"),
        ([ToTensor(), Asserts()], r"Asserts.*cannot be used here.*before ToTensor\(\)"),
        ([NoQuery()], "NoQuery.*AllocationQuery"),
        ([OnlyState()], r"OnlyState.*must return \(State, AllocationQuery\).*not State\("),
        ([NoFunction()], "NoFunction.*generate_code must return a function, not None"),
        ([Convert("float16"), Corner()], r"Corner\(\).*numba.*float16.*jit_mode=False"),
        ([Counted()], "Counted.*with_counter.*repeat in every epoch.*with_indices"),
        ([Corner(), ToTensor(), RandomHorizontalFlip()], r"RandomHorizontalFlip.*move it before Corner\(\)"),
        ([ForeignOperation()], "ForeignOperation.*ffcv_gpu.pipeline.operation.Operation"),
        ([OldBrightness(0.5)], "OldBrightness.*has no declare_state_and_memory"),
        ([OldFlip()], "OldFlip.*must return a function, not None"),
        (
            [DeclaringFlip()],
            r"DeclaringFlip defines FFCV's declare_state_and_memory\(\).*generate_code\(\) too",
        ),
        ([SuperFlip()], "SuperFlip.*'generate_code': a built-in step only describes.*write its code out"),
        ([Twice()], "Twice.*'RandomHorizontalFlip'.*declare_state_and_memory'.*into the pipeline by itself"),
        ([Corner], r"Corner is a class; write Corner\(...\)"),
    ],
)
def test_mistakes_are_refused_when_the_loader_is_made(known, steps, words):
    with pytest.raises(PipelineError, match=f"pipeline 'image'.*{words}") as caught:
        images_of(known, *steps)
    shown = "".join(traceback.format_exception(caught.value))
    assert "numba.core" not in shown and "nopython" not in shown


@pytest.mark.parametrize("jit", [True, False])
def test_a_function_that_returns_nothing_is_named(known, jit):
    with pytest.raises(PipelineError, match=r"Forgets\(.*returned None; its function must return"):
        column(images_of(known, Forgets(jit)))


def test_an_operations_own_exceptions_name_it_and_the_pipeline(known):
    with pytest.raises(KeyError, match="on purpose") as caught:
        images_of(known, Raises())
    notes = " ".join(caught.value.__notes__)
    assert "Raises()" in notes and "'image'" in notes
    for jit in (True, False):
        with pytest.raises(OverflowError, match="on purpose") as caught:
            column(images_of(known, FailsLater(jit)))
        assert any("'image'" in n and "FailsLater" in n and "batch 0" in n for n in caught.value.__notes__)
