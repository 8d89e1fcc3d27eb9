"""What a lens map is about: one model or two, and the rows that they read; checked before loading.

A pair is drawn with the one model's layers in rows and the other's in columns: student and teacher
of a recipe, `--other` and MODEL of the command line.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from distillens_plugin.data.examples import InstructionDataset, load_examples
from distillens_plugin.data.streaming import first_examples
from distillens_plugin.experiment.data import load_data
from distillens_plugin.lens.positions import num_positions
from distillens_plugin.lens.translators import read_info
from distillens_plugin.losses.lens import DistillLensLoss
from distillens_plugin.models.loading import load_student, load_teacher
from distillens_plugin.models.pretrained import checked_folder
from distillens_plugin.models.tokenizers import check_vocabularies, load_tokenizer
from distillens_plugin.recipe.schema.data import DatasetSpec
from distillens_plugin.recipe.schema.layers import unmeasured
from distillens_plugin.recipe.schema.models import TeacherSpec
from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError


@dataclass(frozen=True)
class Subject:
    """A model of the map.

    Attributes:
        role: what it is called: teacher, student, model or other.
        name: folder or Hub name, or what it is made from.
    """

    role: str
    name: str
    model: nn.Module


@dataclass(frozen=True)
class RecipeLens:
    """The recipe's first DistillLensLoss.

    Attributes:
        name: of the term.
        num_pairs: that it chooses by divergence on training rows; None where it names its pairs.
    """

    name: str
    loss: DistillLensLoss
    num_pairs: int | None


@dataclass(frozen=True)
class Subjects:
    """What a map is made of.

    Attributes:
        main: MODEL, or the teacher: in columns.
        other: `--other`, or the student: in rows; None: a map of one model.
        tokenizer: made the rows.
        rows: what is read.
        lens: of a recipe that has one.
        translators: file of the main model's tuned lens.
    """

    main: Subject
    other: Subject | None
    tokenizer: PreTrainedTokenizerBase
    rows: InstructionDataset
    lens: RecipeLens | None = None
    translators: str | None = None

    @property
    def all(self) -> list[Subject]:
        """The models in the order of the page: the student before its teacher."""
        return [self.main] if self.other is None else [self.other, self.main]


def models_subjects(
    main: TeacherSpec,
    other: TeacherSpec | None,
    data: DatasetSpec,
    translators: str | None,
    *,
    shorten: bool = False,
) -> Subjects:
    """Subjects named on the command line.

    Args:
        shorten: rows to the models' positions, prompts to half of them, rather than refuse them.
    Raises:
        DistillensError: a model, its tokenizer, the rows or the translators cannot be read or do
            not fit one another.
    """
    specs = [("MODEL", main)] + ([("--other", other)] if other is not None else [])
    configs = [checked_folder(spec, where=where)[1].config for where, spec in specs]
    if translators is not None:
        _check_translators(translators, configs[0], main)
    tokenizer = _tokenizer(main)
    if other is not None:
        check_vocabularies(_tokenizer(other), tokenizer)
    limits = [limit for config in configs if (limit := num_positions(config)) is not None]
    if shorten and limits and min(limits) < data.max_length:
        shorter = {"max_length": min(limits), "max_prompt_length": min(limits) // 2}
        data = data.model_copy(update=shorter)
    rows = load_examples(data, tokenizer, where="--data")
    for (where, _), config in zip(specs, configs, strict=True):
        _check_positions(config, rows, where, "--max_length")
    subjects = [
        Subject(role, _shown(spec), load_teacher(spec, where=where))
        for role, (where, spec) in zip(("model", "other"), specs, strict=False)
    ]
    second = subjects[1] if other is not None else None
    return Subjects(subjects[0], second, tokenizer, rows, translators=translators)


def recipe_subjects(
    recipe: Recipe, *, student: TeacherSpec | None, translators: str | None
) -> Subjects:
    """Teacher and student of a recipe, with its validation rows, or training rows without them.

    Args:
        student: a trained student; None: the recipe's as it starts.
    Raises:
        DistillensError: no teacher in the recipe, or as `models_subjects`.
    """
    teacher = recipe.models.teacher_model
    if teacher is None:
        raise DistillensError(
            f"{recipe.path}: found no teacher; expected a recipe with a teacher_model, or a "
            "model's folder with --data"
        )
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    lens = _lens(recipe)
    specs = [(recipe.where("models.teacher_model"), teacher)]
    specs += [("--student", student)] if student is not None else []
    folders = [checked_folder(spec, where=where) for where, spec in specs]
    if translators is not None:
        _check_translators(translators, folders[0][1].config, teacher)
    tokenizer, train, validation = load_data(recipe)
    # Weights alone are read with the recipe's tokenizer.
    if student is not None and (folders[1][0] / "tokenizer_config.json").is_file():
        check_vocabularies(_tokenizer(student), tokenizer)
    rows = validation if validation is not None else first_examples(train)
    for (where, _), (_, checked) in zip(specs, folders, strict=True):
        _check_positions(checked.config, rows, where, "datasets.*.max_length")
    torch.manual_seed(recipe.seed)
    main = load_teacher(teacher)
    if student is not None:
        model, name = load_teacher(student, where="--student"), _shown(student)
        for parameter in model.parameters():
            # Quantised weights are integers, which have no gradient.
            parameter.requires_grad_(parameter.is_floating_point())
    else:
        trained = recipe.models.trained
        where = f"models.{recipe.trained_role}"
        model = load_student(trained, tokenizer, teacher=main, where=where)
        name = trained.name_or_path or f"the student of {recipe.path} as it starts"
    return Subjects(
        Subject("teacher", _shown(teacher), main),
        Subject("student", name, model),
        tokenizer,
        rows,
        lens=lens,
        translators=translators,
    )


def _lens(recipe: Recipe) -> RecipeLens | None:
    if not recipe.lens_terms():
        return None
    name, settings = recipe.lens_terms()[0]
    by_divergence = name in unmeasured(recipe.layer_terms())
    return RecipeLens(
        name,
        DistillLensLoss(**settings.model_dump(exclude_none=True)),
        settings.layers.num_pairs if by_divergence else None,
    )


def _tokenizer(spec: TeacherSpec) -> PreTrainedTokenizerBase:
    return load_tokenizer(
        spec.tokenizer_name, revision=spec.revision, trust_remote_code=spec.trust_remote_code
    )


def _shown(spec: TeacherSpec) -> str:
    return spec.name_or_path if spec.adapter is None else f"{spec.adapter} on {spec.name_or_path}"


def _check_positions(
    config: PretrainedConfig, rows: InstructionDataset, where: str, mend: str
) -> None:
    limit, longest = num_positions(config), max(rows.lengths)
    if limit is not None and longest > limit:
        raise DistillensError(
            f"{where}: the longest row has {longest} tokens, but the model has {limit} positions; "
            f"set {mend} to {limit} or less"
        )


def _check_translators(path: str, config: PretrainedConfig, spec: TeacherSpec) -> None:
    info, text = read_info(path, "--translators"), config.get_text_config()
    info.check((), text.num_hidden_layers, text.hidden_size, f"--translators {path}")
    info.check_weights(spec.name_or_path, f"--translators {path}", adapter=spec.adapter)
