"""An action that waits for a library to be loaded."""

import importlib
import importlib.util
import sys

import pytest

from distillens_plugin.integrations.when_loaded import before_loading, when_loaded


@pytest.fixture
def library(tmp_path, monkeypatch):
    """The name of a package that is not loaded; one of its modules is called part."""
    name = f"library_{tmp_path.name}".replace("-", "_")
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("whole = 'yes'\n", encoding="utf-8")
    (tmp_path / name / "part.py").write_text(
        f"import sys\nseen = sys.modules[{name!r}].mark\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    yield name
    sys.meta_path[:] = finders
    sys.modules.pop(name, None)
    sys.modules.pop(f"{name}.part", None)


def test_the_action_comes_right_after_the_library_and_before_its_modules(library):
    when_loaded(library, lambda: setattr(sys.modules[library], "mark", sys.modules[library].whole))
    assert library not in sys.modules
    part = importlib.import_module(f"{library}.part")
    assert part.seen == "yes"


def test_it_comes_at_once_where_the_library_is_loaded(library):
    importlib.import_module(library)
    done = []
    when_loaded(library, lambda: done.append("at once"))
    assert done == ["at once"]


def test_it_comes_once(library):
    done = []
    when_loaded(library, lambda: done.append("first"))
    when_loaded(library, lambda: done.append("second"))
    # Who only looks whether it is installed does not load it.
    assert importlib.util.find_spec(library) is not None
    assert done == []
    module = importlib.import_module(library)
    importlib.reload(module)
    assert sorted(done) == ["first", "second"]


def test_an_action_may_come_right_before(library):
    seen = []
    before_loading(library, lambda: seen.append(hasattr(sys.modules[library], "whole")))
    assert importlib.util.find_spec(library) is not None
    assert seen == []
    module = importlib.import_module(library)
    assert seen == [False]
    before_loading(library, lambda: seen.append("again"))
    importlib.reload(module)
    assert seen == [False]


def test_nothing_comes_of_a_library_that_is_not_there():
    done = []
    before = list(sys.meta_path)
    when_loaded("no_such_library_anywhere", lambda: done.append("never"))
    try:
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module("no_such_library_anywhere")
    finally:
        sys.meta_path[:] = before
    assert done == []


def test_what_the_action_raises_the_import_raises(library):
    def fail():
        raise RuntimeError("no keys today")

    when_loaded(library, fail)
    with pytest.raises(RuntimeError, match="no keys today"):
        importlib.import_module(library)
