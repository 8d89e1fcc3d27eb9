"""`revision` names a commit on the Hub: a folder here has none, and would ignore it."""

from collections.abc import Callable
from pathlib import Path

from distillens_plugin.recipe.schema.base import KeyPath
from distillens_plugin.recipe.schema.models import Models, StudentSpec
from eval_harness.errors import DistillensError

_ROLES = ("teacher_model", "student_model", "model")


def refuse_revisions_of_folders(models: Models, where: Callable[[KeyPath], str]) -> None:
    """Refuses a revision of a model whose files, and those of its tokenizer, are folders here.

    Args:
        where: what errors about a key begin with.
    Raises:
        DistillensError: names the key.
    """
    for role in _ROLES:
        spec = getattr(models, role)
        if spec is None or spec.revision is None:
            continue
        init = spec.init if isinstance(spec, StudentSpec) else None
        name = spec.name_or_path or (init.teacher if init is not None else None)
        # A tokenizer of its own is read at the same revision.
        names = [given for given in (name, spec.tokenizer) if given is not None]
        if names and all(Path(given).is_dir() for given in names):
            raise DistillensError(
                f"{where(('models', role, 'revision'))}: found {spec.revision!r}, but {names[0]} "
                "is a folder here, which has no revisions; delete the key, or name a model on the "
                "Hub"
            )
