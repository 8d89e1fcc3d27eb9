"""No file runs code unless the command line gives trust: whatever would run leaves a marker.

docs/security.md names the test behind each of its sentences.
"""

import pytest
from tiny_run import save_tiny_model


@pytest.fixture(autouse=True)
def what_is_imported_counts(cold_python):
    """In a forked process no module of a working folder could hide one that is loaded already."""


@pytest.fixture(scope="session")
def plain_model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture
def marker(tmp_path, monkeypatch, plain_model):
    """A file that hostile code makes. The test fails where it is there at the end."""
    path = tmp_path / "MARKER"
    (tmp_path / "teacher").symlink_to(plain_model)  # of `tiny_recipe`, made once
    monkeypatch.chdir(tmp_path)
    yield path
    assert not path.exists()
