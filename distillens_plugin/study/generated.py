"""The teacher's answers that a study generates (SeqKD), and what they depend on.

<study>/generated/<method>.jsonl    the answers
<study>/generated/<method>.json     the settings they are made with, written before them
"""

import json
import sys
from pathlib import Path
from typing import Any

from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.study.digests import leaves, resolved_keys
from distillens_plugin.study.executor import Command
from distillens_plugin.study.records import first_difference, read_json
from distillens_plugin.study.short_keys import expand
from distillens_plugin.study.spec import Generate, Study
from eval_harness import check_backend_arguments, make_protocol
from eval_harness.errors import DistillensError
from eval_harness.shared.digest import digest
from eval_harness.shared.files.atomic import write_json
from eval_harness.shared.model_folder.trust import RECIPE_FLAG
from eval_harness.shared.program.key_values import parse_key_values

# What `distillens generate` reads of a recipe.
_SECTIONS = ("models.teacher_model", "datasets.train")


def generated_file(study: Study, method: str) -> Path:
    """Where the teacher's answers are written."""
    return Path(study.output_dir) / "generated" / f"{method}.jsonl"


def answers_depend_on(study: Study, method: str) -> dict[str, Any]:
    """What decides a method's answers: teacher, prompts and settings, files by their content."""
    how = _how(study, method)
    try:
        recipe = load_recipe(study.recipe, _overrides(study), study.is_trusted)
        model_args = parse_key_values(how.model_args, flag="model_args")
        gen_kwargs = parse_key_values(how.gen_kwargs, flag="gen_kwargs")
    except DistillensError as error:
        raise DistillensError(f"{study.where('methods', method, 'generate')}: {error}") from None
    own = {"backend": how.model, "model_args": model_args, "gen_kwargs": gen_kwargs}
    return {
        **{k: v for k, v in resolved_keys(recipe).items() if k.startswith(_SECTIONS)},
        **dict(leaves(own, "generate")),
    }


def check_generation(study: Study) -> None:
    """Refuses backend arguments and sampling settings that `distillens generate` would refuse.

    Raises:
        DistillensError: names the method and the key.
    """
    for name, method in study.methods.items():
        how = method.generate
        if how is None:
            continue
        try:
            key = "model_args"
            given = parse_key_values(how.model_args, flag=key)
            if "pretrained" in given:
                raise DistillensError("pretrained: the recipe's teacher answers; delete it")
            check_backend_arguments(how.model, given)
            key = "gen_kwargs"
            sampling = parse_key_values(how.gen_kwargs, flag=key)
            greedy = sampling.get("temperature", 0) == 0
            make_protocol("greedy" if greedy else "default", gen_kwargs=sampling, seeds=(0,))
        except DistillensError as error:
            where = study.where("methods", name, "generate", key)
            raise DistillensError(f"{where}: {error}") from None


def are_generated(study: Study, method: str, *, overwrite: bool) -> bool:
    """Whether the answers are there, and made as they would be made now.

    Args:
        overwrite: answers made with other settings count as missing (and are made again).
    Raises:
        DistillensError: they were made with other settings; names the first key that differs.
    """
    path = generated_file(study, method)
    if not path.is_file():
        return False
    stored, wanted = read_json(_record(path)), answers_depend_on(study, method)
    if stored.get("fingerprint") == digest(wanted):
        return True
    if overwrite:
        return False
    raise DistillensError(
        f"{path}: the teacher's answers were made with other settings "
        f"({first_difference(stored.get('depends_on'), wanted)}); change the study back, name "
        "another folder with --output_dir, or let the teacher answer again with --overwrite"
    )


def generation_command(study: Study, method: str) -> Command:
    """`distillens generate` for a method; an interrupted one resumes where it stopped."""
    path, how = generated_file(study, method), _how(study, method)
    command = [sys.executable, "-m", "distillens_plugin.cli", "generate"]
    command += [study.recipe, "--output", str(path), "--model", how.model]
    for text in _overrides(study):
        command += ["--set", text]
    for flag in ("model_args", "gen_kwargs"):
        given = getattr(how, flag)
        command += [f"--{flag}={given}"] if given else []
    if study.is_trusted:
        command.append(RECIPE_FLAG)

    def before() -> None:
        # Once the record exists, every answer in the file was made with its settings.
        path.unlink(missing_ok=True)
        wanted = answers_depend_on(study, method)
        write_json(_record(path), {"fingerprint": digest(wanted), "depends_on": wanted})

    writes = (path.with_suffix(".answers"), path)
    return Command(command, path.with_suffix(".log"), before=before, writes=writes)


def _record(path: Path) -> Path:
    return path.with_suffix(".json")


def _how(study: Study, method: str) -> Generate:
    how = study.methods[method].generate
    assert how is not None
    return how


def _overrides(study: Study) -> list[str]:
    # The study's keys may name the teacher; a method's own are about its training.
    return [f"{key}={json.dumps(value)}" for key, value in expand(study.set).items()]
