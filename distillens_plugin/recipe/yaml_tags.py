"""The tags that a recipe may use: some that build text, one that names a sampler.

With trust, torchdistill's other tags work too, and can run any code.
"""

import os
from dataclasses import dataclass
from typing import Any, ClassVar

import yaml

from distillens_plugin.recipe.schema.torchdistill_names import SAMPLER_MODULES, SAMPLERS
from eval_harness.shared.files.yaml_loader import (
    LimitedComposer,
    RefusedError,
    StrictLoader,
    use_core_rules,
)
from eval_harness.shared.model_folder.trust import RECIPE_FLAG, advice
from eval_harness.shared.near import did_you_mean


@dataclass(frozen=True)
class ImportedName:
    """`!import_get {key: torch.utils.data.SequentialSampler}`: a name; `full_form` imports it."""

    key: str


def is_sampler(name: object) -> bool:
    """Whether a value names one of torch's own samplers."""
    module, _, last = name.rpartition(".") if isinstance(name, str) else ("", "", "")
    return module in SAMPLER_MODULES and last in SAMPLERS


def _near_sampler(key: str) -> str:
    """A hint if a name of torch's is misspelt; empty for another module's."""
    module, _, name = key.rpartition(".")
    return did_you_mean(name, SAMPLERS) if module in SAMPLER_MODULES else ""


class RecipeLoader(StrictLoader):
    """The strict loader with three tags that build text or names."""

    safe_tags: ClassVar[tuple[str, ...]] = ("!join", "!pathjoin", "!import_get")
    tag_advice: ClassVar[str | None] = (
        "expected only !join, !pathjoin and !import_get of a torch.utils.data sampler; "
        f"{advice(RECIPE_FLAG)}"
    )


class SavedRecipeLoader(RecipeLoader):
    """For what a run kept, trusted or not: takes any name of `!import_get`, imports none."""


def _construct_join(loader: Any, node: yaml.SequenceNode) -> str:
    return "".join(str(part) for part in loader.construct_sequence(node, deep=True))


def _construct_pathjoin(loader: Any, node: yaml.SequenceNode) -> str:
    parts = [str(part) for part in loader.construct_sequence(node, deep=True)]
    return os.path.expanduser(os.path.join(*parts)) if parts else ""


def _named(loader: Any, node: yaml.Node) -> tuple[dict[Any, Any], str]:
    """The entries of `!import_get`, and the name that they give."""
    entry = loader.construct_mapping(node, deep=True) if isinstance(node, yaml.MappingNode) else {}
    return entry, ".".join(str(entry[part]) for part in ("package", "key") if entry.get(part))


def _construct_import_get(loader: Any, node: yaml.Node) -> ImportedName:
    entry, key = _named(loader, node)
    if not is_sampler(key) or not set(entry) <= {"key", "package"}:
        raise RefusedError(
            problem=f"!import_get found {key or 'no key'}, expected a sampler of torch.utils.data; "
            + (_near_sampler(key) or advice(RECIPE_FLAG)),
            problem_mark=node.start_mark,
        )
    return ImportedName(key)


def _construct_any_import_get(loader: Any, node: yaml.Node) -> ImportedName:
    return ImportedName(_named(loader, node)[1])


RecipeLoader.add_constructor("!join", _construct_join)
RecipeLoader.add_constructor("!pathjoin", _construct_pathjoin)
RecipeLoader.add_constructor("!import_get", _construct_import_get)
# Last: it copies the constructors of the class above it.
SavedRecipeLoader.add_constructor("!import_get", _construct_any_import_get)


def trusted_loader() -> type[yaml.FullLoader]:
    """A loader with torchdistill's tags, as its own class: yaml.FullLoader itself gets none."""
    from torchdistill.common import yaml_util

    class TrustedLoader(LimitedComposer, yaml.FullLoader):
        safe_tags: ClassVar[tuple[str, ...]] = ()
        tag_advice: ClassVar[str | None] = None

    use_core_rules(TrustedLoader)
    for name in (
        "join",
        "pathjoin",
        "expanduser",
        "abspath",
        "import_get",
        "import_call",
        "import_call_method",
        "call_method",
        "getattr",
        "setattr",
        "access_by_index_or_key",
    ):
        TrustedLoader.add_constructor(f"!{name}", getattr(yaml_util, f"yaml_{name}"))
    return TrustedLoader
