"""The harness from Python, as a notebook or a script uses it: evaluate, score, compare."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from eval_harness.comparison.compare import Comparisons, compare_loaded
from eval_harness.comparison.systems import load_systems
from eval_harness.errors import DistillensError
from eval_harness.generation.evaluate import run_evaluation
from eval_harness.generation.python_request import EvaluationArguments, evaluation_settings
from eval_harness.generation.system_entries import system_entries
from eval_harness.generation.systems import check_outcomes, run_systems
from eval_harness.results.schema import Results
from eval_harness.scoring.metrics import DEFAULT_METRICS
from eval_harness.scoring.rouge import metric_of_tokenizer
from eval_harness.scoring.score import score_texts
from eval_harness.shared.argument_types import (
    check_lists,
    check_mappings,
    check_names,
    check_switches,
    folder_of,
    path_of,
)

PathLike = str | os.PathLike[str]


def evaluate(
    model: PathLike,
    tasks: PathLike | Sequence[PathLike],
    *,
    output_path: PathLike,
    backend: str = "hf",
    model_args: Mapping[str, Any] | None = None,
    data: Mapping[str, PathLike] | None = None,
    include_path: PathLike | None = None,
    protocol: str = "default",
    gen_kwargs: Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    template: str | None = None,
    truncation: str | None = None,
    max_prompt_tokens: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    limit: float | None = None,
    samples: Mapping[str, Sequence[int]] | None = None,
    system_instruction: str | None = None,
    num_fewshot: int | None = None,
    fewshot_as_multiturn: bool | None = None,
    log_samples: bool = True,
    predict_only: bool = False,
    rouge_tokenizer: str = "default",
    loglikelihood: bool = False,
    trust_remote_code: bool = False,
) -> Results:
    """Generates answers to benchmarks, scores them and writes them: `eval-harness run`.

    An interrupted evaluation resumes from `output_path`; stored answers are not generated again.

        results = evaluate("runs/student/best", "self_inst", output_path="out", limit=20)
        results.tasks["self_inst"].metrics["rougeL,none"]

    Args:
        model: a model folder, or a name on the Hugging Face Hub.
        tasks: names of benchmarks or paths of benchmark files: a list, or one text with commas.
        output_path: folder of the results; made if missing.
        backend: "hf" (transformers, runs anywhere), "vllm" (the fastest), "server" (an
            OpenAI-compatible endpoint), or a name registered with `register_backend`.
        model_args: further arguments of the model and the backend: dtype, revision, tokenizer,
            peft, max_length, add_bos_token, tensor_parallel_size, ...
        data: task -> its local rows, a JSONL file or a folder with valid.jsonl.
        include_path: a folder of benchmark files of your own.
        protocol: "default" (sampled), "minillm" (as its code) or "greedy".
        gen_kwargs: changes to the protocol: max_gen_toks, temperature, top_p, top_k, until, ...
        seeds: one answer for each; None: the protocol's.
        template: a name of a prompt template or a format string with {instruction}; None: the
            benchmark's, else the protocol's.
        truncation: "template" (cut the task's text) or "reference"; None: the protocol's.
        max_prompt_tokens: longest prompt; None: the protocol's, 256.
        batch_size: rows in flight; None lets the backend choose.
        device: a torch device, for "hf".
        limit: how many rows of each benchmark to run, or their share if below 1; None: all.
        samples: task -> indices of its rows, from 0, instead of `limit`.
        system_instruction: a system message before each question; with the template "chat" only.
        num_fewshot: solved examples before each question, of the benchmark's `fewshot` rows.
        fewshot_as_multiturn: whether they are turns of the conversation; None: with "chat".
        log_samples: write a row for each sample, which `compare` reads.
        predict_only: generate, do not score.
        rouge_tokenizer: "unicode" adds "rougeL_unicode", ROUGE-L of words in any script.
        loglikelihood: also compute the references' negative log-likelihood and perplexity.
        trust_remote_code: run code that comes with the model, and accept arguments that can run
            code.
    Returns:
        The results: for each task its metrics (x 100, under lm-eval's names such as
        "rougeL,none"), fingerprint and samples; `source` of a task is the results file.
    Raises:
        DistillensError: bad input, refused before any weights are loaded; one line says what to do.
        RunFailure: the backend failed, or a file cannot be written.
    """
    settings = evaluation_settings(
        {"pretrained": path_of(model, "model"), **_model_args(model_args)},
        tasks,
        folder_of(output_path, "output_path"),
        backend=backend,
        data=data,
        include_path=include_path,
        protocol=protocol,
        gen_kwargs=gen_kwargs,
        seeds=seeds,
        template=template,
        truncation=truncation,
        max_prompt_tokens=max_prompt_tokens,
        batch_size=batch_size,
        device=device,
        limit=limit,
        samples=samples,
        system_instruction=system_instruction,
        num_fewshot=num_fewshot,
        fewshot_as_multiturn=fewshot_as_multiturn,
        log_samples=log_samples,
        predict_only=predict_only,
        rouge_tokenizer=rouge_tokenizer,
        loglikelihood=loglikelihood,
        trust_remote_code=trust_remote_code,
    )
    results, _ = run_evaluation(settings)
    return results


def evaluate_systems(
    systems: Sequence[PathLike | Mapping[str, Any]],
    tasks: PathLike | Sequence[PathLike],
    *,
    output_path: PathLike | None = None,
    model_args: Mapping[str, Any] | None = None,
    **arguments: Unpack[EvaluationArguments],
) -> list[Results]:
    """Evaluates several systems as `evaluate` does each: `eval-harness run --systems`.

    Systems that fit together share a loaded model's memory and, with vLLM, an engine.

        evaluate_systems(["runs/a/best", "runs/b/best"], "self_inst", output_path="out")

    Args:
        systems: model folders, Hub names, adapter folders, or mappings of `model_args` with
            `output_path` and `working_folder`, from which their paths then count.
        output_path: of the systems that name none.
        model_args: what the systems have in common.
        arguments: the others of `evaluate`, the same for all.
    Returns:
        The results, in the order of `systems`.
    Raises:
        DistillensError: bad input of any system, refused before any weights are loaded.
        RunFailure: some of them failed; the results of the others are written.
    """
    check_lists(systems=systems)
    entries = system_entries(
        [
            system if isinstance(system, Mapping) else path_of(system, f"systems[{place}]")
            for place, system in enumerate(systems)
        ],
        model_args=_model_args(model_args),
        output_path=None if output_path is None else folder_of(output_path, "output_path"),
    )
    settings = [
        dataclasses.replace(
            evaluation_settings(entry.model_args, tasks, entry.output_path, **arguments),
            working_folder=entry.working_folder,
        )
        for entry in entries
    ]
    outcomes = sorted(run_systems(settings), key=lambda outcome: outcome.place)
    check_outcomes(outcomes)
    return [outcome.results for outcome in outcomes if outcome.results is not None]


def _model_args(given: Mapping[str, Any] | None) -> dict[str, Any]:
    check_mappings(model_args=given)
    return dict(given or {})


def score(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    metrics: Sequence[str] = DEFAULT_METRICS,
    rouge_tokenizer: str = "default",
    scorer: str | None = None,
) -> dict[str, Any]:
    """Scores texts against references, in memory; `score_files` does so for two JSONL files.

        score(["Paris."], [["Paris", "It is Paris."]])["rougeL"]

    Args:
        predictions: N texts, at least one.
        references: for each prediction a text, or a non-empty list; the best one counts.
        metrics: names of `METRICS`; ROUGE-L and exact match are always included.
        rouge_tokenizer: "unicode" adds "rougeL_unicode", ROUGE-L of words in any script.
        scorer: "rouge-score-rs" or "rouge-score" (same values); None: the fastest installed.
    Returns:
        Each metric x 100 by its name, "num_rows", "scorer", how many rows have no reference and how
        many predictions have no word that ROUGE-L sees, and "rows": for each prediction a dict of
        fractions in [0, 1].
    Raises:
        DistillensError: not as many references as predictions, an empty list, a value that is not
            a text, an unknown metric or scorer.
    """
    check_lists(predictions=predictions, references=references, metrics=metrics)
    check_names(rouge_tokenizer=rouge_tokenizer)
    metrics = [*metrics, metric_of_tokenizer(rouge_tokenizer)]
    return score_texts(predictions, references, metrics=metrics, backend=scorer)


def compare(
    *systems: PathLike,
    references: PathLike | None = None,
    all_pairs: bool = False,
    rouge_tokenizer: str = "default",
    scorer: str | None = None,
) -> Comparisons:
    """Compares systems row by row: `eval-harness compare`. `print` shows the result as text.

        print(compare("out/student", "out/teacher"))

    Args:
        systems: at least two results folders or files; with `references`, prediction files (JSONL
            with id and text). The later ones are compared with the first.
        references: the references of prediction files (JSONL with id and output).
        all_pairs: compare every pair.
        rouge_tokenizer: "unicode" adds "rougeL_unicode", also to runs that did not compute it.
        scorer: as for `score`; used for answers without scores.
    Returns:
        The comparisons (difference, 95 % interval, p-values, verdict), the scores of each system
        and notes; `to_json()` is what `eval-harness compare --json` prints.
    Raises:
        DistillensError: fewer than two systems, unreadable files, or systems that cannot be
            compared because tasks, rows, protocols or data differ; names what differs.
    """
    if len(systems) < 2:
        raise DistillensError(f"compare needs at least two systems, found {len(systems)}")
    check_switches(all_pairs=all_pairs)
    named = [path_of(system, f"systems[{place}]") for place, system in enumerate(systems)]
    if references is not None:
        references = path_of(references, "references")
    check_names(rouge_tokenizer=rouge_tokenizer)
    further = [metric_of_tokenizer(rouge_tokenizer)]
    loaded = load_systems(named, references=references, backend=scorer, metrics=further)
    return compare_loaded(loaded, all_pairs=all_pairs)
