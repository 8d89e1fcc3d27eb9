"""`--validate`: everything about a recipe that can be checked without loading weights.

Each check prints one line, `ok ...` or `skipped ... because ...`; the first mistake is raised.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from distillens_plugin.data.generated_rows import check_generated
from distillens_plugin.data.rows import FIRST_ROWS, read_rows
from distillens_plugin.lens.config_facts import ModelFacts
from distillens_plugin.models.hub import Hub, UnreachableError, is_path
from distillens_plugin.on_policy.vllm_client import VllmClient
from distillens_plugin.preflight.adapters import check_lora
from distillens_plugin.preflight.models import check_layers, check_model, check_vocabularies
from distillens_plugin.preflight.rouge_check import check_best_by
from distillens_plugin.preflight.run_length import check_enough_rows
from distillens_plugin.preflight.sharding import fitting_line
from distillens_plugin.recipe.full_form import full_form
from distillens_plugin.recipe.schema.data import DatasetSpec
from distillens_plugin.recipe.schema.layers import unmeasured
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.recipe.yaml_dumper import to_yaml
from distillens_plugin.storage.hub_upload import check_upload
from distillens_plugin.storage.run_folder import check_free
from eval_harness.errors import DistillensError

_MAX_DATA_FILES = 10_000
_VALIDATION = "datasets.validation"
_DATA_FILES = (".jsonl", ".json", ".csv", ".parquet", ".gz")


def validate_without_weights(
    recipe: Recipe, *, overwrite: bool = False, facts: dict[str, ModelFacts] | None = None
) -> list[str]:
    """Checks data, templates, model configs, layers, vocabularies, adapters and output folder.

    Args:
        overwrite: a run in the output folder is not a mistake.
        facts: filled with what is found of each model, for `print_full_form`.
    Returns:
        One line per check, those skipped with the reason.
    Raises:
        DistillensError: the first mistake found.
    """
    lines = [f"ok {recipe.path}: keys, types and ranges"]
    lines.append(_criterion_line(recipe))
    lines.append(_check_output(recipe, overwrite))
    hub = Hub()
    lines += _check_data(recipe, hub)
    facts = {} if facts is None else facts
    for role in ("teacher_model", recipe.trained_role):
        lines += check_model(recipe, role, facts, hub)
    lines += check_lora(recipe, hub)
    lines += check_layers(recipe, facts)
    lines += check_vocabularies(recipe, facts, hub)
    lines += _check_server(recipe, facts)
    lines += check_upload(recipe)
    lines.append(fitting_line(recipe))
    return lines


def _check_server(recipe: Recipe, facts: dict[str, ModelFacts]) -> list[str]:
    """Asks the vLLM server for on-policy answers, if the recipe names one, whether it can serve."""
    server = recipe.train.on_policy.server if recipe.train.on_policy is not None else None
    if server is None:
        return []
    limits = [model.num_positions for model in facts.values() if model.num_positions is not None]
    max_length = min([recipe.datasets.train.max_length, *limits])
    try:
        VllmClient(server.base_url, timeout_s=server.timeout_s).check(max_length=max_length)
    except DistillensError as error:
        raise DistillensError(f"{recipe.where('train.on_policy.server')}: {error}") from error
    return [f"ok train.on_policy.server: {server.base_url} takes weights"]


def print_full_form(recipe: Recipe, facts: dict[str, ModelFacts] | None = None) -> None:
    """Prints the recipe as torchdistill takes it.

    Args:
        facts: of the models, from `validate_without_weights`; missing ones are looked up.
    Raises:
        DistillensError: a model's config is not available, so its block paths are not known.
    """
    hub = Hub()
    facts = dict(facts or {})
    for role in ("teacher_model", recipe.trained_role):
        lines = check_model(recipe, role, facts, hub) if role not in facts else []
        if lines and role not in facts:
            raise DistillensError(
                f"{recipe.where(f'models.{role}')}: the full form needs the model's config: "
                f"{lines[0]}"
            )
    for name in recipe.train.criterion.kwargs.balanced():
        raise DistillensError(
            f"{recipe.where(f'train.criterion.kwargs.sub_terms.{name}.weight')}: found auto, which "
            "only the runner measures, with --print; give it a number, as a finished run's "
            "summary.json has it"
        )
    form = full_form(recipe, facts[recipe.trained_role], facts.get("teacher_model"))
    if form["train"]["scheduler"]["kwargs"].get("num_steps", 0) is None:
        print(
            "# scheduler.kwargs: the number of steps follows from the data; the runner fills it in"
        )
    for name in unmeasured(recipe.layer_terms()):
        print(f"# {name}: its layers are measured before training; the runner adds their hooks")
    if form["train"]["num_epochs"] is None:
        print("# train.num_epochs follows from num_steps and the data; the runner fills it in")
    if recipe.datasets.train.streaming:
        print("# a stream is the runner's own loader; the box's would read it without an end")
    if recipe.train.train_data_loader.packing:
        print("# train_data_loader.packing is the runner's own; a box by itself pads rows")
    if recipe.train.on_policy is not None:
        print("# train.on_policy is the runner's own; a box by itself trains on the references")
    print(to_yaml(form), end="")


def _criterion_line(recipe: Recipe) -> str:
    criterion = recipe.train.criterion.kwargs
    line = f"ok train.criterion: {', '.join(criterion.sub_terms)}"
    if balanced := criterion.balanced():
        line += f"; the weight of {', '.join(balanced)} is balanced against {criterion.reference()}"
    return line


def _check_output(recipe: Recipe, overwrite: bool) -> str:
    assert recipe.output_dir is not None  # load_recipe
    check_free(Path(recipe.output_dir), overwrite=overwrite)
    return f"ok output_dir: {recipe.output_dir} is free"


def _check_data(recipe: Recipe, hub: Hub) -> list[str]:
    from eval_harness.shared.text.template_table import check_template

    lines = []
    for split in ("train", "validation"):
        spec = getattr(recipe.datasets, split)
        if spec is None:
            lines.append(f"skipped datasets.{split} because the recipe has none")
            continue
        try:
            check_template(spec.template)
        except DistillensError as error:
            raise DistillensError(
                f"{recipe.where(f'datasets.{split}.template')}: {error}"
            ) from None
        lines.append(_check_source(recipe, spec, f"datasets.{split}", hub))
    return lines


def _check_source(recipe: Recipe, spec: DatasetSpec, key: str, hub: Hub) -> str:
    where = recipe.where(f"{key}.path")
    if spec.generated:
        num_rows = check_generated(spec.path, where, supervise=spec.supervise)
        _check_length(recipe, key, min(num_rows, spec.num_rows or num_rows))
        note = ""
        if key == _VALIDATION:
            note = _best_by_note(recipe, key, _read_references(recipe, spec, key))
        return f"ok {key}: {spec.path}, {num_rows} generated answers{note}"
    if os.path.exists(spec.path):
        if os.path.isdir(spec.path):
            _check_folder_size(spec.path, where)
        references = _read_references(recipe, spec, key)
        if not references:
            raise DistillensError(f"{where}: {spec.path} holds no rows, expected at least one")
        if spec.streaming:
            return f"ok {key}: {spec.path}, its first {len(references)} rows; streamed"
        _check_length(recipe, key, len(references))
        note = _best_by_note(recipe, key, references)
        return f"ok {key}: {spec.path}, {len(references)} rows{note}"
    if is_path(spec.path) or os.path.splitext(spec.path)[1] in _DATA_FILES:
        raise DistillensError(
            f"{where}: there is no file {spec.path}; expected a JSON Lines file or a data set's "
            "name on the Hub"
        )
    try:
        hub.require("dataset", spec.path, None, where)
    except UnreachableError as error:
        return f"skipped {key}, {spec.path}, because {error}"
    return f"ok {key}: {spec.path} is on the Hub"


def _read_references(recipe: Recipe, spec: DatasetSpec, key: str) -> list[list[str]]:
    """Of each row; of the first rows of a stream."""
    # The `datasets` library cannot read a folder without writing a cache.
    with TemporaryDirectory(prefix="distillens-validate-") as cache_dir:
        rows = read_rows(
            spec,
            where=recipe.where(key),
            default_split=key.rpartition(".")[2],
            cache_dir=cache_dir,
            first_rows=FIRST_ROWS if spec.streaming else None,
        )
        return [row.references for row in rows]


def _best_by_note(recipe: Recipe, key: str, references: Sequence[Sequence[str]]) -> str:
    """What to add about validation rows that cannot choose the best model; else nothing."""
    if key != _VALIDATION:
        return ""
    note = check_best_by(recipe.train.best_by, references, recipe.where(key))
    return f"; {note}" if note is not None else ""


def _check_folder_size(folder: str, where: str) -> None:
    """A folder that is not a data set, such as /, would be searched for hours."""
    num_files = 0
    for _, _, files in os.walk(folder):
        num_files += len(files)
        if num_files > _MAX_DATA_FILES:
            raise DistillensError(
                f"{where}: {folder} holds more than {_MAX_DATA_FILES} files; expected a folder "
                "that holds only data files"
            )


def _check_length(recipe: Recipe, key: str, num_rows: int) -> None:
    """Rows may yet be dropped, but too few stay too few; launchers set WORLD_SIZE."""
    if key == "datasets.train":
        world_size = os.environ.get("WORLD_SIZE", "1")
        check_enough_rows(recipe, num_rows, int(world_size) if world_size.isdigit() else 1)
