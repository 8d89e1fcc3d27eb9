"""A copy of a small model, free to be spoilt."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(small_llama, tmp_path) -> Path:
    return shutil.copytree(small_llama, tmp_path / "model")
