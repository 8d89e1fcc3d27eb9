"""What a cache must know about the two models, from their configs alone."""

from dataclasses import dataclass

from distillens_plugin.lens.config_facts import ModelFacts
from distillens_plugin.models.hub import Hub
from distillens_plugin.models.pretrained import checked_folder
from distillens_plugin.preflight.models import check_model
from distillens_plugin.recipe.schema.recipe import Recipe
from eval_harness.errors import DistillensError


@dataclass(frozen=True)
class PairFacts:
    """Student and teacher.

    Attributes:
        head_width: of what the teacher's unembedding reads.
    """

    student: ModelFacts
    teacher: ModelFacts
    head_width: int


def facts_of(recipe: Recipe) -> PairFacts:
    """Facts of a recipe with a teacher; loads no weights.

    Raises:
        DistillensError: a model's files are missing or damaged.
    """
    facts: dict[str, ModelFacts] = {}
    hub = Hub()
    for role in ("teacher_model", recipe.trained_role):
        lines = check_model(recipe, role, facts, hub)
        if role not in facts:
            raise DistillensError(f"{recipe.where(f'models.{role}')}: {lines[0]}")
    teacher = recipe.models.teacher_model
    assert teacher is not None  # the schema refuses a cache without a teacher
    _, checked = checked_folder(teacher, where="models.teacher_model")
    head = None if checked.model is None else checked.model.get_output_embeddings()
    width = facts["teacher_model"].width
    return PairFacts(
        student=facts[recipe.trained_role],
        teacher=facts["teacher_model"],
        # The model's own code is not run for its shapes; few models project before the head.
        head_width=width if head is None else int(head.weight.shape[1]),
    )
