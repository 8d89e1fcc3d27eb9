"""From the flags of `eval-harness run`, and those in --config, to the settings of a run."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_harness.commands.flags.run_flags import DEFAULTS
from eval_harness.errors import DistillensError
from eval_harness.shared.argument_types import folder_of
from eval_harness.shared.files.strict_json import NotJsonError, decode
from eval_harness.shared.program.flag_numbers import batch_size, limit, seeds
from eval_harness.shared.program.key_values import NAMES, read_key_values
from eval_harness.shared.shortened import shortened

if TYPE_CHECKING:
    from eval_harness.generation.system_entries import System, SystemEntry
    from eval_harness.generation.task import Settings
    from eval_harness.publishing.publications import Publications

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def all_flags(args: argparse.Namespace) -> argparse.Namespace:
    """Every flag: the command line's, else --config's, else the default.

    Raises:
        DistillensError: the file is wrong, or a flag that is needed is in neither.
    """
    from eval_harness.commands.flags.config_file import read_config

    file = getattr(args, "config", None)
    given = {**DEFAULTS, **({} if file is None else read_config(file)), **vars(args)}
    # Each of several systems may have an output path of its own.
    needed = ("tasks",) if given["systems"] else ("tasks", "output_path")
    missing = [f"--{name}" for name in needed if given[name] is None]
    if missing:
        raise DistillensError(
            f"the following arguments are required: {', '.join(missing)} (--help shows the options)"
        )
    return argparse.Namespace(**given)


def settings_of(flags: argparse.Namespace) -> "list[Settings]":
    """The settings of a run: of each system, if it has several.

    Args:
        flags: from `all_flags`.
    Raises:
        DistillensError: a value is wrong, or settings contradict each other.
    """
    from eval_harness.generation.system_entries import SystemEntry, system_entries

    model_args = _merged(flags.model_args, "--model_args")
    path = None if flags.output_path is None else folder_of(flags.output_path, "--output_path")
    if flags.systems:
        systems = [_system(text) for text in flags.systems]
        entries = system_entries(systems, model_args=model_args, output_path=path)
    else:
        assert path is not None  # all_flags
        entries = [SystemEntry(model_args, path)]
    return [_settings(flags, entry) for entry in entries]


def _settings(flags: argparse.Namespace, entry: "SystemEntry") -> "Settings":
    from eval_harness.generation.request import make_settings

    settings = make_settings(
        backend=flags.model,
        model_args=entry.model_args,
        tasks=",".join(flags.tasks),
        output_path=entry.output_path,
        data=flags.data,
        include_path=flags.include_path,
        protocol=flags.protocol,
        gen_kwargs=_merged(flags.gen_kwargs, "--gen_kwargs"),
        seeds=seeds(flags.seed),
        template=_template(flags),
        truncation=flags.truncation,
        max_prompt_tokens=flags.max_prompt_tokens,
        batch_size=batch_size(flags.batch_size),
        device=flags.device,
        limit=limit(flags.limit),
        samples=_samples(flags.samples),
        system_instruction=flags.system_instruction,
        num_fewshot=flags.num_fewshot,
        fewshot_as_multiturn=_boolean(flags.fewshot_as_multiturn, "--fewshot_as_multiturn"),
        write_out=flags.write_out,
        log_samples=flags.log_samples,
        predict_only=flags.predict_only,
        rouge_tokenizer=flags.rouge_tokenizer,
        loglikelihood=flags.loglikelihood,
        trust_remote_code=flags.trust_remote_code,
        config={"batch_size": flags.batch_size},
    )
    return dataclasses.replace(settings, working_folder=entry.working_folder)


def _system(text: str) -> "System":
    """A name, or a JSON object."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        found: dict[str, Any] = decode(text)
    except NotJsonError as error:
        raise DistillensError(f"--systems {shortened(text)}: {error.message}") from error
    return found


def publications_of(flags: argparse.Namespace, output_path: Path) -> "Publications":
    """Where the results go beside the output path.

    Args:
        flags: from `all_flags`.
        output_path: of the results.
    Raises:
        DistillensError: what would fail at the end, as far as that can be known.
    """
    from eval_harness.publishing import hub, wandb_logger
    from eval_harness.publishing.publications import Publications

    wandb_args = _merged(flags.wandb_args, wandb_logger.FLAG, wandb_logger.TEXTS)
    if len(flags.systems) > 1 and "id" in wandb_args:
        raise DistillensError(
            f"{wandb_logger.FLAG} id with --systems: each system is a run of its own, and one id "
            "names one run; drop id, and give group=... to keep them together"
        )
    return Publications.of(
        wandb_args=wandb_args,
        wandb_config_args=_merged(flags.wandb_config_args, "--wandb_config_args", frozenset()),
        hf_hub_log_args=_merged(flags.hf_hub_log_args, hub.FLAG, hub.TEXTS),
        output_path=output_path,
        log_samples=flags.log_samples,
    )


def _merged(given: Sequence[Sequence[str]], flag: str, names: Set[str] = NAMES) -> dict[str, Any]:
    """Of a flag that is given several times, the later values count, as in lm-eval."""
    values: dict[str, Any] = {}
    for parts in given:
        values |= read_key_values(parts, flag=flag, names=names)
    return values


def _template(flags: argparse.Namespace) -> str | None:
    chat = flags.apply_chat_template
    if isinstance(chat, str):
        raise DistillensError(
            f"--apply_chat_template {shortened(chat)}: no name of a template is taken, the "
            "tokenizer's own is used; drop the name"
        )
    if chat and flags.template not in (None, "chat"):
        raise DistillensError("--apply_chat_template and --template: give only one of them")
    return "chat" if chat else flags.template


def _samples(text: str | None) -> Mapping[str, Sequence[int]] | None:
    """The JSON of --samples, or of the file that it names; checked with the benchmarks."""
    if text is None:
        return None
    where = "--samples"
    if not text.lstrip().startswith("{"):
        where = f"--samples {shortened(text)}"
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not UTF-8 text"
            raise DistillensError(
                f"{where}: cannot be read ({reason}); expected JSON, or a file with JSON"
            ) from error
    try:
        rows: Mapping[str, Sequence[int]] = decode(text)
    except NotJsonError as error:
        raise DistillensError(f"{where}: {error.message}") from error
    return rows


def _boolean(text: str | None, flag: str) -> bool | None:
    if text is None:
        return None
    if text.lower() not in _BOOLEANS:
        raise DistillensError(f"{flag} {shortened(text)}: expected true or false")
    return _BOOLEANS[text.lower()]
