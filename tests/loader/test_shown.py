"""What a notebook and the Python prompt show of a loader's, a writer's and a profile's value."""

from __future__ import annotations

import json
import pickle

from IPython.lib.pretty import pretty

from ffcv_gpu.fields import IntField
from ffcv_gpu.loader import Loader
from ffcv_gpu.writer import DatasetWriter


def test_texts_of_several_lines_are_shown_as_lines(tmp_path):
    report = DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, progress=False).from_indexed_dataset(
        [(i,) for i in range(8)]
    )
    loader = Loader(tmp_path / "a.beton", 4, num_workers=1)
    with loader.profile() as profile:
        list(loader)
    for value in (report, loader.explain(), profile, profile.stats()):
        assert pretty(value) == str(value) and "\\n" not in pretty(value)
    for value in (loader.explain(), profile):
        assert repr(value) == str(value)
    assert repr(report).startswith("WriteReport(path=")  # complete, for logs


def test_the_explanation_is_a_plain_text_for_all_else(tmp_path):
    DatasetWriter(tmp_path / "a.beton", {"x": IntField()}, progress=False).from_indexed_dataset([(0,)])
    text = Loader(tmp_path / "a.beton", 1, num_workers=1).explain()
    assert json.loads(json.dumps(text)) == text == pickle.loads(pickle.dumps(text))
    assert len(text.splitlines()) > 2 and type(str(text)) is str
