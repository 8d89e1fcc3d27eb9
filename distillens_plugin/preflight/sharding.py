"""Which of accelerate's configurations a recipe can run under, and why not under the others."""

from collections.abc import Mapping

from distillens_plugin.recipe.schema.recipe import Recipe
from distillens_plugin.sharding.launch import CONFIGURATIONS, Kind
from eval_harness.errors import DistillensError


def check_fits(recipe: Recipe, kind: Kind) -> None:
    """Refuses a recipe that cannot run as it was launched.

    Raises:
        DistillensError: names the key and what to do.
    """
    obstacle = _obstacle(recipe, kind)
    if obstacle is not None:
        key, found, todo = obstacle
        raise DistillensError(f"{recipe.where(key)}: found {found} under {kind}, {todo}")


def check_precision(recipe: Recipe, environment: Mapping[str, str]) -> None:
    """Refuses a launcher's precision that is not the recipe's: accelerate would drop it unsaid.

    Args:
        environment: accelerate's launcher sets ACCELERATE_MIXED_PRECISION, `no` unless it is told.
    Raises:
        DistillensError: names both, and what to do.
    """
    wanted = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if wanted in ("no", "none", recipe.mixed_precision):
        return
    takes = f"set it with --set mixed_precision={wanted}, or " if wanted in ("bf16", "fp16") else ""
    raise DistillensError(
        f"{recipe.where('mixed_precision')}: found {recipe.mixed_precision}, but accelerate launch "
        f"asks for {wanted} (--mixed_precision, or its configuration file), and the recipe counts; "
        f"{takes}launch with --mixed_precision no"
    )


def fitting_line(recipe: Recipe) -> str:
    """For `--validate`: which of recipes/accelerate fit, and what keeps the others from it."""
    fits: list[str] = []
    reasons: dict[str, list[str]] = {}
    for name in CONFIGURATIONS:
        obstacle = _obstacle(recipe, name)
        if obstacle is None:
            fits.append(name)
        else:
            reasons.setdefault(f"{obstacle[0]}: {obstacle[1]}", []).append(name)
    line = f"ok sharding: of recipes/accelerate, {', '.join(fits) or 'none'} fit"
    for reason, names in reasons.items():
        line += f"; not {', '.join(names)} ({reason})"
    return line


def _obstacle(recipe: Recipe, kind: Kind) -> tuple[str, str, str] | None:
    """What a recipe has that cannot run so: its key, what was found, and what to do."""
    in_pieces = kind in ("fsdp2", "hsdp")
    zero = kind in ("zero1", "zero2")
    sharding, teacher = recipe.sharding, recipe.train.teacher
    if sharding.teacher == "sharded" and not in_pieces:
        return (
            "sharding.teacher",
            "sharded",
            "expected replicated; or launch with recipes/accelerate/fsdp2.yaml",
        )
    if sharding.reshard_teacher and not in_pieces:
        return (
            "sharding.reshard_teacher",
            "true",
            "where no teacher is in pieces; delete the key, or launch with "
            "recipes/accelerate/fsdp2.yaml",
        )
    if (in_pieces or zero) and recipe.mixed_precision == "fp16":
        return "mixed_precision", "fp16", "expected bf16 or no"
    if (in_pieces or zero) and teacher is not None and teacher.requires_grad:
        return (
            "train.teacher.requires_grad",
            "true",
            "which shards one trained model; launch with recipes/accelerate/ddp.yaml",
        )
    balanced = recipe.train.criterion.kwargs.balanced()
    if zero and balanced:
        return (
            f"train.criterion.kwargs.sub_terms.{balanced[0]}.weight",
            "auto",
            "which shows no gradients to be measured; give a number, or launch with "
            "recipes/accelerate/fsdp2.yaml",
        )
    if zero and recipe.resumable:
        return (
            "resumable",
            "true",
            "whose optimiser state is never whole; set resumable: false, or launch with "
            "recipes/accelerate/fsdp2.yaml",
        )
    return None
