"""Fixtures for every test."""

from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("keepstream", deadline=None)  # compiling takes what it takes
settings.load_profile("keepstream")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def real_data() -> Path:
    """Return the folder of real data sets; the test skips where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"real data is not at {DATA.name}/: put it beside the project to run this test")
    return DATA
