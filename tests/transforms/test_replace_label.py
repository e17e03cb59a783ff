"""ReplaceLabel: by rows of the file, on arrays and tensors."""

import numpy as np
import pytest

from ffcv_gpu.errors import PipelineError
from ffcv_gpu.fields.decoders import IntDecoder, SimpleRGBImageDecoder
from ffcv_gpu.loader import Loader
from ffcv_gpu.transforms import Convert, ReplaceLabel, Squeeze, ToTensor


@pytest.mark.parametrize("tail", [[], [ToTensor()]])
def test_labels_of_chosen_rows_are_replaced(photo_file, tail):
    steps = [IntDecoder(), *tail, ReplaceLabel([2, 20, 500], -7)]
    (made,) = photo_file.load({"image": None, "label": steps})
    expected = np.arange(21)
    expected[[2, 20]] = -7
    assert made.dtype == np.int64 and np.array_equal(made, expected[:, None])
    (squeezed,) = photo_file.load(
        {"image": None, "label": [IntDecoder(), ToTensor(), Squeeze(1), ReplaceLabel([3], 0)]}, indices=[5, 3]
    )
    assert squeezed.tolist() == [5, 0]
    halves = [IntDecoder(), ToTensor(), Convert("bfloat16"), ReplaceLabel([3], 0.5), Convert("float32")]
    assert photo_file.load({"image": None, "label": halves}, indices=[5, 3])[0].tolist() == [[5], [0.5]]


def test_bad_places_and_arguments_are_refused(photo_file):
    with pytest.raises(PipelineError, match="works on labels, not on"):
        Loader(photo_file.path, 4, pipelines={"image": [SimpleRGBImageDecoder(), ReplaceLabel([1], 0)]})
    with pytest.raises(PipelineError, match="ReplaceLabel: indices must be rows of the file"):
        ReplaceLabel([0.5], 1)
    with pytest.raises(PipelineError, match="ReplaceLabel: indices must be rows of the file"):
        ReplaceLabel([[1], [2, 3]], 1)
    with pytest.raises(PipelineError, match="new_label must be a number, not 'cat'"):
        ReplaceLabel([1], "cat")
    for dtype, label in (("uint8", 300), ("int64", 1.7)):
        steps = [IntDecoder(), Convert(dtype), ReplaceLabel([1], label)]
        with pytest.raises(PipelineError, match=f"a label of {dtype} must be a whole number"):
            Loader(photo_file.path, 4, pipelines={"image": None, "label": steps})
