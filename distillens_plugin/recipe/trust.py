"""What a stranger's recipe or study must not do unasked.

`eval_harness.shared.model_folder.trust` does the refusing.
YAML tags are refused while the file is read (`yaml_reader`), everything else here, once the keys
are known: so it makes no difference whether a key comes from the recipe, its base, a fragment, a
study or --set.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillens_plugin.recipe.yaml_tags import ImportedName, is_sampler
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.trust import (
    RECIPE_FLAG,
    check_config,
    check_folder,
    check_model_args,
    names_hub_code,
    refuse,
)
from eval_harness.shared.program.key_values import parse_key_values

if TYPE_CHECKING:
    from distillens_plugin.recipe.schema.recipe import Recipe
    from distillens_plugin.study.spec import Study

_MODULES = re.compile(r"distillens_plugin|torchdistill(\.\w+)*")
_ROLES = ("teacher_model", "student_model", "model")


def refuse_recipe_code(recipe: "Recipe", where: Any) -> None:
    """Refuses a recipe that imports modules or runs code of models or of the Hub.

    Args:
        where: a key path (a tuple) -> what errors about it begin with.
    Raises:
        DistillensError: names the key.
    """
    for index, dependency in enumerate(recipe.dependencies):
        if dependency.package is not None or not _MODULES.fullmatch(dependency.name):
            effect = "is imported and so runs (distillens_plugin and torchdistill's need no trust)"
            refuse(
                where(("dependencies", index)),
                f"the module {dependency.name!r}",
                effect,
                RECIPE_FLAG,
            )
    for role in _ROLES:
        spec = getattr(recipe.models, role)
        if spec is not None:
            _check_model(spec, role, where)
    sampler = recipe.train.train_data_loader.sampler
    named = sampler.class_or_func if sampler is not None else None
    if sampler is not None and not isinstance(named, ImportedName) and not is_sampler(named):
        effect = "is imported and called (the samplers of torch.utils.data need no trust)"
        at = ("train", "train_data_loader", "sampler", "class_or_func")
        refuse(where(at), repr(named), effect, RECIPE_FLAG)


def _check_model(spec: Any, role: str, where: Any) -> None:
    at = ("models", role)
    if spec.trust_remote_code:
        effect = f"runs code that comes with {spec.name_or_path}"
        refuse(where((*at, "trust_remote_code")), "true", effect, RECIPE_FLAG)
    if names_hub_code(spec.attn_implementation):
        found = repr(spec.attn_implementation)
        refuse(where((*at, "attn_implementation")), found, "loads code from the Hub", RECIPE_FLAG)
    init = getattr(spec, "init", None)
    if init is not None and init.config is not None:
        here = where((*at, "init", "config"))
        if init.config.get("auto_map") is not None:
            found = f"auto_map {init.config['auto_map']!r}"
            refuse(here, found, "names code of a model", RECIPE_FLAG)
        check_config(init.config, here, trusted=False, flag=RECIPE_FLAG)
    named = ((("name_or_path",), spec.name_or_path), (("adapter",), spec.adapter))
    for key, name in (*named, (("init", "teacher"), getattr(init, "teacher", None))):
        if name is None:
            continue
        try:
            check_folder(Path(name), trusted=False, flag=RECIPE_FLAG)
        except DistillensError as error:
            raise DistillensError(f"{where((*at, *key))}: {error}") from None


def refuse_study_code(study: "Study") -> None:
    """Refuses a study whose arguments for a backend can run code; its recipes are checked alone.

    Raises:
        DistillensError: names the key.
    """
    spec = study.evaluation
    if spec is not None:
        where = study.where("evaluation", "model_args")
        _check_arguments(spec.model, spec.model_args, where)
    for name, method in study.methods.items():
        if method.generate is not None:
            where = study.where("methods", name, "generate", "model_args")
            try:
                given = parse_key_values(method.generate.model_args, flag="")
            except DistillensError as error:
                raise DistillensError(f"{where}: {str(error).strip()}") from None
            _check_arguments(method.generate.model, given, where)


def _check_arguments(model: str, given: dict[str, Any], where: str) -> None:
    check_model_args(model, given, trusted=False, where=where, flag=RECIPE_FLAG)
    for key in ("pretrained", "tokenizer", "peft"):
        if isinstance(given.get(key), str):
            check_folder(Path(given[key]), trusted=False, flag=RECIPE_FLAG)
