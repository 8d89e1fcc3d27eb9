"""Files of matrices for a teacher's layers that a recipe names: translators, Fisher matrices."""

from distillens_plugin.lens.config_facts import ModelFacts
from distillens_plugin.lens.layers import Layer
from distillens_plugin.recipe.schema.recipe import Recipe


def check_teacher_files(
    recipe: Recipe,
    files: dict[str, str],
    layers: list[Layer],
    facts: dict[str, ModelFacts],
    key: str,
) -> list[str]:
    """A line for each file of matrices of a term whose layers are at `key`."""
    return [
        _check_teacher_file(recipe, path, layers, facts, key.removesuffix("layers") + name)
        for name, path in files.items()
    ]


def _check_teacher_file(
    recipe: Recipe, path: str, layers: list[Layer], facts: dict[str, ModelFacts], key: str
) -> str:
    from distillens_plugin.lens.translators import read_info
    from distillens_plugin.losses.fisher_metric import check_fisher, read_fisher

    where, is_fisher = recipe.where(key), key.endswith("metric_file")
    info = read_fisher(path, where) if is_fisher else read_info(path, where)
    teacher, spec = facts.get("teacher_model"), recipe.models.teacher_model
    if teacher is not None and is_fisher:
        check_fisher(info, layers, teacher.num_layers, teacher.width, where)
    elif teacher is not None:
        info.check(layers, teacher.num_layers, teacher.width, where)
    if spec is not None and spec.name_or_path is not None:
        info.check_weights(spec.name_or_path, where, adapter=spec.adapter)
    return f"ok {info.kind.plural}: {path}, {len(info.layers)} layers"
