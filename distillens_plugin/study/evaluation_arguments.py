"""The command line by which eval-harness evaluates a run of a study."""

import os
import sys
from pathlib import Path
from typing import Any

from distillens_plugin.study.plan import Run
from distillens_plugin.study.spec import Evaluation
from eval_harness import make_protocol
from eval_harness.shared.model_folder.trust import MODEL_FLAG
from eval_harness.shared.program.key_values import format_key_values


def evaluation_arguments(run: Run, protocol: str) -> list[str]:
    """eval-harness's command line, to be run in the run's folder."""
    own = [format_key_values(model_arguments(run)), output_path(protocol)]
    return [*shared_arguments(run, protocol), f"--model_args={own[0]}", f"--output_path={own[1]}"]


def output_path(protocol: str) -> str:
    """Of the results, in the run's folder."""
    return f"evaluation/{protocol}"


def model_arguments(run: Run) -> dict[str, Any]:
    """--model_args, in the run's folder."""
    spec, data = evaluation_of(run), run.recipe.datasets.train
    first = {} if data.add_bos_token == "auto" else {"add_bos_token": data.add_bos_token}
    return {"pretrained": f"train/{spec.checkpoint}", **first, **_model_args(spec)}


def shared_arguments(run: Run, protocol: str) -> list[str]:
    """The command line but for the model and the place of its results."""
    spec = evaluation_of(run)
    template = spec.template or run.recipe.datasets.train.template
    arguments = [sys.executable, "-m", "eval_harness", "run", "--model", spec.model]
    # With an equals sign, so that no text of the study is taken for a flag.
    arguments += [f"--tasks={','.join(map(_task, spec.tasks))}", f"--protocol={protocol}"]
    arguments += [f"--template={template}"]
    arguments += [f"--data={entry}" for entry in data_entries(spec)]
    if spec.gen_kwargs:
        arguments += [f"--gen_kwargs={format_key_values(spec.gen_kwargs)}"]
    if run.study.is_trusted:
        arguments.append(MODEL_FLAG)
    if spec.seeds is not None and not _is_greedy(protocol):
        arguments += ["--seed", ",".join(map(str, spec.seeds))]
    if spec.limit is not None:
        arguments += ["--limit", f"{spec.limit:.15g}"]
    if spec.batch_size is not None:
        arguments += ["--batch_size", str(spec.batch_size)]
    if spec.max_prompt_tokens is not None:
        arguments += ["--max_prompt_tokens", str(spec.max_prompt_tokens)]
    if spec.rouge_tokenizer != "default":
        arguments += ["--rouge_tokenizer", spec.rouge_tokenizer]
    # Once is enough: how answers are drawn does not change how likely the references are.
    return [*arguments, "--loglikelihood"] if protocol == spec.protocols[0] else arguments


def evaluation_of(run: Run) -> Evaluation:
    """What its study says about evaluation; there must be something."""
    assert run.study.evaluation is not None
    return run.study.evaluation


def is_benchmark_file(task: str) -> bool:
    """Whether a task is named by the path of its file."""
    return task.endswith((".yaml", ".yml"))


def is_place(key: str, value: object) -> bool:
    """Whether a model argument names something on this machine's disk."""
    return key in ("tokenizer", "peft") and isinstance(value, str) and os.path.exists(value)


def data_entries(spec: Evaluation) -> list[str]:
    """--data, once for each."""
    return [f"{task}={Path(path).resolve()}" for task, path in spec.data.items()]


def _task(task: str) -> str:
    # eval-harness runs in the run's folder.
    return os.path.abspath(task) if is_benchmark_file(task) else task


def _model_args(spec: Evaluation) -> dict[str, Any]:
    return {
        key: os.path.abspath(value) if is_place(key, value) else value
        for key, value in spec.model_args.items()
    }


def _is_greedy(protocol: str) -> bool:
    return make_protocol(protocol).greedy
