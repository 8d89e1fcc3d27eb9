"""A key of the whole study that a method's own fragment sets too: one of the two would be lost."""

from collections.abc import Iterator
from typing import Any

from distillens_plugin.recipe.composition import read_composed
from distillens_plugin.recipe.packaged import find_recipe
from distillens_plugin.study.short_keys import expand
from distillens_plugin.study.spec import Study
from eval_harness.errors import DistillensError


def refuse_shadowed(study: Study) -> None:
    """Refuses a study whose `set` would undo what makes a method: a row named RKL that is FKL.

    Keys are put over a recipe after its fragments, the study's first. A method that repeats the
    key in its own `set` says what it wants.

    Raises:
        DistillensError: names the key, the method and the fragment.
    """
    given = expand(study.set)
    for name, method in study.methods.items():
        repeated = expand(method.set)
        open_keys = {
            key: value
            for key, value in given.items()
            if not any(_within(key, each) for each in repeated)
        }
        for fragment in method.fragments:
            data = read_composed(find_recipe(fragment), trust=study.is_trusted).data
            for path, own in _leaves(data):
                for key, value in open_keys.items():
                    meet = _within(path, key) or _within(key, path)
                    if meet and (path, own) != (key, value):
                        raise DistillensError(
                            f"{study.where('set')}: sets {key} for every method, which would "
                            f"replace what {fragment} sets for {name} ({path}); give the key to "
                            f"the methods that want it, or repeat it in methods.{name}.set"
                        )


def _within(key: str, other: str) -> bool:
    """Whether a dotted key is another one, or lies below it."""
    return f"{key}.".startswith(f"{other}.")


def _leaves(node: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict | list) and node:
        entries = node.items() if isinstance(node, dict) else enumerate(node)
        for key, value in entries:
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, node
