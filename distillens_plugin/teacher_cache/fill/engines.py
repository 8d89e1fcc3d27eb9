"""The engines by name, each imported when it is asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from distillens_plugin.recipe.schema.models import TeacherSpec
from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.teacher_cache.fill.engine import StatesEngine
from distillens_plugin.teacher_cache.identity import teacher_folder
from distillens_plugin.teacher_cache.plan import Plan
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.trust import RECIPE_FLAG, check_model_args


@dataclass(frozen=True)
class Order:
    """What an engine is made for.

    Attributes:
        layers: sorted, the last block's output among them.
        longest: most tokens of a row.
        arguments: of --model_args.
        batch_size: of --batch_size; None if it was not given.
        trusted: arguments may run code (--trust-recipe).
    """

    recipe: Recipe
    plan: Plan
    layers: Sequence[int]
    longest: int
    arguments: dict[str, Any]
    batch_size: int | None
    trusted: bool

    @property
    def teacher(self) -> TeacherSpec:
        spec = self.recipe.models.teacher_model
        assert spec is not None  # the schema refuses a cache without a teacher
        return spec


def make_engine(name: str, order: Order) -> StatesEngine:
    """An engine that has started, or will with the first row.

    Raises:
        DistillensError: an argument or the teacher does not fit the engine.
        RunFailure: it does not start.
    """
    return ENGINES[name](order)


def _transformers(order: Order) -> StatesEngine:
    from distillens_plugin.teacher_cache.fill.transformers_engine import TransformersEngine

    batch_size = order.batch_size or order.recipe.train.train_data_loader.kwargs.batch_size or 1
    return TransformersEngine(order.recipe, order.arguments, batch_size=batch_size)


def _vllm(order: Order) -> StatesEngine:
    from distillens_plugin.teacher_cache.fill.vllm import VllmEngine
    from distillens_plugin.teacher_cache.fill.wanted import Wanted

    _check_for_vllm(order, "vllm")
    # An interpreter is a program that the user names, as typing its name would.
    checked = {key: value for key, value in order.arguments.items() if key != "python"}
    check_model_args("vllm", checked, trusted=order.trusted, where="--model_args", flag=RECIPE_FLAG)
    return VllmEngine(Wanted(**_wanted(order)), dict(order.arguments), beside=order.plan.folder)


def _server(order: Order) -> StatesEngine:
    from distillens_plugin.teacher_cache.fill.server import ServerEngine
    from distillens_plugin.teacher_cache.fill.wanted import Wanted

    _check_for_vllm(order, "server")
    return ServerEngine(Wanted(**_wanted(order)), dict(order.arguments))


def _wanted(order: Order) -> dict[str, Any]:
    teacher = order.teacher
    model = teacher_folder(teacher)
    tokenizer = model
    if teacher.tokenizer is not None:
        tokenizer = teacher_folder(teacher.model_copy(update={"name_or_path": teacher.tokenizer}))
    return {
        "model": model,
        "tokenizer": tokenizer,
        "layers": list(order.layers),
        "longest": order.longest,
    }


def _check_for_vllm(order: Order, name: str) -> None:
    if order.batch_size is not None:
        raise DistillensError(
            f"--batch_size: is for --model hf; --model {name} batches by itself (max_num_seqs of "
            "vLLM)"
        )
    if order.teacher.adapter is not None:
        raise DistillensError(
            f"models.teacher_model.adapter: --model {name} takes whole models; use --model hf, or "
            "merge the adapter into its model and name that folder"
        )


ENGINES: dict[str, Callable[[Order], StatesEngine]] = {
    "hf": _transformers,
    "vllm": _vllm,
    "server": _server,
}
