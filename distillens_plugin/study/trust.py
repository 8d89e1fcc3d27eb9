"""What a stranger's study must not do unasked; its recipes are checked as they are read."""

from pathlib import Path
from typing import Any

from distillens_plugin.study.spec import Study
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.trust import (
    RECIPE_FLAG,
    check_folder,
    check_model_args,
    refuse,
)
from eval_harness.shared.program.key_values import parse_key_values


def refuse_study_code(study: Study) -> None:
    """Refuses a study whose backend arguments can run code, or send a key to a stranger.

    Its recipes are checked elsewhere.

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
            if method.generate.model == "server":
                effect = "sends prompts, and a key of the environment, to the address in model_args"
                where = study.where("methods", name, "generate", "model")
                refuse(where, "server", effect, RECIPE_FLAG)


def _check_arguments(model: str, given: dict[str, Any], where: str) -> None:
    check_model_args(model, given, trusted=False, where=where, flag=RECIPE_FLAG)
    for key in ("pretrained", "tokenizer", "peft"):
        if isinstance(given.get(key), str):
            check_folder(Path(given[key]), trusted=False, flag=RECIPE_FLAG)
