"""Code that runs before or after a library is loaded, so that we need not load it ourselves.

As `wrapt.when_imported`, which takes 50 ms to load: a signal in that time would end a command with
a traceback, because the package is imported before the command's first line.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.abc import Loader


def when_loaded(name: str, action: Callable[[], None]) -> None:
    """Runs an action once: now if the module is already loaded, else right after its import.

    Args:
        name: of a top-level module written in Python.
        action: whatever it raises, the import raises.
    """
    if sys.modules.get(name) is not None:
        action()
    else:
        sys.meta_path.insert(0, _Finder(name, after=action))


def before_loading(name: str, action: Callable[[], None]) -> None:
    """Runs an action once, right before the module is loaded; never if it is already loaded.

    Args:
        name, action: as of `when_loaded`.
    """
    if sys.modules.get(name) is None:
        sys.meta_path.insert(0, _Finder(name, before=action))


def _nothing() -> None:
    return None


class _Finder:
    """Finds one module, by asking the finders after it, and adds actions to its loading."""

    def __init__(
        self,
        name: str,
        *,
        before: Callable[[], None] = _nothing,
        after: Callable[[], None] = _nothing,
    ) -> None:
        self._name, self._before, self._after = name, before, after

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._name or self not in sys.meta_path:
            return None
        # Those after this one: two that wait for one library must not ask each other in turn.
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]
        found = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in found if spec is not None), None)
        # Finding is not loading: the caller may only ask whether it is installed.
        if spec is not None and spec.loader is not None:
            self._add_actions(spec.loader)
        return spec

    def _add_actions(self, loader: "Loader") -> None:
        load = loader.exec_module

        def load_and_act(module: ModuleType) -> None:
            self._before()
            load(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
                self._after()

        loader.exec_module = load_and_act  # type: ignore[method-assign]
