"""Recipes as YAML: how a run keeps its own, and what cannot be kept."""

import sys
from collections.abc import Callable
from types import BuiltinFunctionType, FunctionType
from typing import Any

import yaml

from distillens_plugin.recipe.schema.base import show
from distillens_plugin.recipe.yaml_tags import ImportedName
from eval_harness.errors import DistillensError
from eval_harness.shared.files.strict_yaml import KeyPath

_FUNCTIONS = (FunctionType, BuiltinFunctionType)


class _Dumper(yaml.SafeDumper):
    """Writes classes and functions as !import_get, and never uses aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_class(dumper: yaml.SafeDumper, cls: type) -> yaml.Node:
    module = "torch.utils.data" if cls.__module__.startswith("torch.utils.data") else cls.__module__
    return _represent_name(dumper, ImportedName(f"{module}.{cls.__qualname__}"))


def _represent_function(dumper: yaml.SafeDumper, function: Any) -> yaml.Node:
    return _represent_name(dumper, ImportedName(f"{function.__module__}.{function.__qualname__}"))


def _represent_name(dumper: yaml.SafeDumper, name: ImportedName) -> yaml.Node:
    return dumper.represent_mapping("!import_get", {"key": name.key}, flow_style=True)


_Dumper.add_multi_representer(type, _represent_class)
_Dumper.add_representer(ImportedName, _represent_name)
for _kind in _FUNCTIONS:
    _Dumper.add_representer(_kind, _represent_function)


def to_yaml(data: dict[str, Any]) -> str:
    """YAML that `torchdistill.common.yaml_util.load_yaml_file` reads back to equal data.

    Args:
        data: a full form, or `recipe.to_plain()`.
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def check_can_be_kept(data: Any, where: Callable[[KeyPath], str], at: KeyPath = ()) -> None:
    """Refuses what the tags of a trusted recipe made and `to_yaml` cannot write.

    Args:
        data: the recipe's, or what it has at the key path `at`.
        where: what errors about a key begin with.
    Raises:
        DistillensError: names the first such key.
    """
    if type(data) is dict:
        for key, value in data.items():
            check_can_be_kept(value, where, (*at, key))
    elif type(data) in (list, tuple):
        for index, value in enumerate(data):
            check_can_be_kept(value, where, (*at, index))
    elif not _can_be_kept(data):
        raise DistillensError(
            f"{where(at)}: found {show(data)}, which the run's recipe.yaml cannot hold; "
            "expected a number, a text, or an !import_get of a module's class or function"
        )


def _can_be_kept(value: Any) -> bool:
    if isinstance(value, _FUNCTIONS):
        # Neither a lambda nor what a function made can be found again by its name.
        module = sys.modules.get(value.__module__ or "")
        return getattr(module, value.__qualname__, None) is value
    return isinstance(value, type) or type(value) in _Dumper.yaml_representers
