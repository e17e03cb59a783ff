"""The API page: made of docstrings, which must be there and name every parameter."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys

import pytest

from ffcv_gpu.cli.api import entries, markdown, methods, page, properties, signature
from ffcv_gpu.steps import Step

ENTRIES = {entry.path: entry for entry in entries()}


def test_what_users_import_is_there():
    names = {entry.name for entry in ENTRIES.values()}
    assert names >= {"Loader", "DatasetWriter", "RGBImageField", "CenterCropRGBImageDecoder", "ToTensor"}
    assert names >= {"NormalizeImage", "PipelineSpec", "Operation", "TraversalOrder", "BoxDecoder"}
    assert names >= {
        "Profile",
        "StageStats",
        "ImageFolder",
        "Reader",
        "FormatError",
        "decode_jpegs",
        "Target",
        "Setup",
        "examine",
    }


@pytest.mark.parametrize("path", ENTRIES)
def test_it_says_what_it_is_and_names_its_parameters(path):
    what = ENTRIES[path].what
    text = inspect.getdoc(what) or ""
    assert len(text.split()) >= 3, f"{path} has no docstring"
    documented = section(text, "Parameters")
    if not documented and not inspect.isfunction(what):
        return  # described in words: a few arguments that the first line names
    parameters = inspect.signature(what).parameters.values()
    given = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    named = [name.strip(" *`") for line in documented for name in line.partition(" : ")[0].split(",")]
    passes_on = len(given) < len(parameters)
    assert passes_on or set(named) <= set(given), f"{path} documents parameters that it has not"
    missing = [name for name in given if name not in named and not re.search(rf"\b{name}\b", text)]
    assert missing == [], f"{path} says nothing of {missing}"


#: what is chosen by name rather than made, and what is given to users rather than made by them
NOT_MADE = {"OrderOption", "DecodeStatus", "WriteReport", "Diagnosis", "Findings"}
NOT_MADE |= {"Profile", "StageStats", "StageTime"}
MADE = [p for p, entry in ENTRIES.items() if entry.heading != "Exceptions" and entry.name not in NOT_MADE]
STEPS = [p for p in MADE if inspect.isclass(ENTRIES[p].what) and issubclass(ENTRIES[p].what, Step)]


@pytest.mark.parametrize("path", MADE)
def test_what_takes_parameters_has_a_section_of_them(path):
    what = ENTRIES[path].what
    if given(what):
        assert section(inspect.getdoc(what), "Parameters"), f"{path} takes {given(what)} and describes none"


def given(what):
    parameters = inspect.signature(what).parameters.values()
    return [p.name for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]


@pytest.mark.parametrize("path", STEPS)
def test_what_stands_in_pipelines_says_shapes_and_errors(path):
    what = ENTRIES[path].what
    text = inspect.getdoc(what)
    assert re.search(r"\([Nn],", text) or "`ffcv_gpu.transforms." in text, f"{path}: which shape?"
    assert section(text, "Raises") or not given(what), f"{path}: what is refused?"


def section(text, title):
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\S[^\n]*\n---|\Z)", text, re.S | re.M)
    return [line for line in found.group(1).splitlines() if line and line[0] != " "] if found else []


def test_what_a_loaders_parts_define_is_there():
    """`set_epoch`, `state_dict` and what may be assigned were missing from the page."""
    text = page()
    for name in (
        "set_epoch(epoch)",
        "state_dict()",
        "load_state_dict(state)",
        "batch_size",
        "indices",
        "seed",
    ):
        assert text.count(f"#### `Loader.{name}`\n") == 1, name
    assert [name for p, e in ENTRIES.items() for name, m in properties(e.what) if not inspect.getdoc(m)] == []


def test_public_methods_have_docstrings():
    silent = [f"{p}.{n}" for p, e in ENTRIES.items() for n, m in methods(e.what) if not inspect.getdoc(m)]
    assert silent == []


def test_the_page():
    text = page()
    assert text.startswith("# API\n") and text.endswith("\n")
    for entry in ENTRIES.values():
        assert text.count(f"\n### `{entry.name}`\n") >= 1
    assert "#### `DatasetWriter.from_webdataset(shards, pipeline, *, shard=None)`" in text
    assert "    ffcv_gpu.fields.image" not in text  # by the names that users import
    assert "- `page_size`: int, default 8 MiB" in text
    assert " at 0x" not in text
    command = [sys.executable, "-m", "ffcv_gpu.cli.api"]
    for encoding in ("utf-8", "ascii"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        printed = subprocess.run(command, capture_output=True, check=True, env=environment).stdout
        assert printed == text.encode(encoding, "backslashreplace")


DOCSTRING = """First ``line``.

Like so::

    code()

Parameters
----------
a, b : int
    Two.
**rest

Notes
-----
End"""
MARKDOWN = """First `line`.

Like so:

    code()

**Parameters**

- `a, b`: int
    Two.
- `**rest`

**Notes**

End
"""


def test_sections_and_code():
    assert "\n".join(markdown(DOCSTRING)) == MARKDOWN
    assert signature(lambda self, a, *, b=2: None) == "(a, *, b=2)"
