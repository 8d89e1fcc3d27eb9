"""What a stranger's recipe must not do without consent.

`eval_harness.shared.model_folder.trust` raises the errors. YAML tags are refused while the file is
read (`yaml_reader`), modules before the keys are checked (`dependencies`), and everything else
here, once the keys are known. So it makes no difference whether a key comes from the recipe, its
base, a fragment, a study or --set.
"""

from collections.abc import Callable
from pathlib import Path

from distillens_plugin.recipe.schema.base import KeyPath
from distillens_plugin.recipe.schema.models import StudentSpec, TeacherSpec
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.recipe.yaml_tags import ImportedName, is_sampler
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.trust import (
    RECIPE_FLAG,
    check_config,
    check_folder,
    names_hub_code,
    refuse,
)

_ROLES = ("teacher_model", "student_model", "model")


def refuse_recipe_code(recipe: Recipe, where: Callable[[KeyPath], str]) -> None:
    """Refuses a recipe that imports a sampler, or runs code of models or of the Hub.

    Args:
        where: a key path (a tuple) -> what errors about it begin with.
    Raises:
        DistillensError: names the key.
    """
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


def _check_model(
    spec: StudentSpec | TeacherSpec, role: str, where: Callable[[KeyPath], str]
) -> None:
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
            refuse(here, found, "names a model's own code", RECIPE_FLAG)
        check_config(init.config, here, trusted=False, flag=RECIPE_FLAG)
    named = ((("name_or_path",), spec.name_or_path), (("adapter",), spec.adapter))
    for key, name in (*named, (("init", "teacher"), getattr(init, "teacher", None))):
        if name is None:
            continue
        try:
            check_folder(Path(name), trusted=False, flag=RECIPE_FLAG)
        except DistillensError as error:
            raise DistillensError(f"{where((*at, *key))}: {error}") from None
