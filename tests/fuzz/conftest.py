"""The files of random pipelines, written once."""

from __future__ import annotations

import pytest

from tests.fuzz.recipes import File, written


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, File]:
    """``odd``: images of odd sizes; ``one``: images of one size; not to be changed."""
    return written(tmp_path_factory.mktemp("pipelines"))
