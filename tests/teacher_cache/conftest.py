"""A filled cache, which the tests of this folder read."""

from types import SimpleNamespace

import pytest
from cached_run import Run, cached_recipe


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """Two epochs that fill a cache: their losses, teacher calls, and the folder."""
    folder = tmp_path_factory.mktemp("filled")
    run = Run(cached_recipe(folder))
    first, first_calls = run.epoch(0)
    second, second_calls = run.epoch(1)
    run.close()
    return SimpleNamespace(
        folder=folder, steps=first + second, calls=(first_calls, second_calls), run=run
    )
