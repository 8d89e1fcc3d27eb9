"""Generate and score instruction-following benchmarks (ROUGE-L), with vLLM or transformers.

    from eval_harness import compare, evaluate, score

    evaluate("runs/student/best", "self_inst", output_path="out/student")
    print(compare("out/student", "out/teacher"))

Importing this package is quick: torch, transformers and vLLM are loaded when a name that needs them
is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval_harness.api import compare, evaluate, evaluate_systems, score
    from eval_harness.backends.base import (
        Answer,
        Backend,
        Continuation,
        LogLikelihood,
        Request,
        Sampling,
    )
    from eval_harness.backends.table import BACKENDS, register_backend
    from eval_harness.benchmarks.definition import Benchmark, load_benchmark
    from eval_harness.benchmarks.registry import find_benchmarks, select_benchmarks
    from eval_harness.comparison.compare import (
        ALPHA,
        NO_DIFFERENCE,
        Comparison,
        Comparisons,
        verdict,
    )
    from eval_harness.errors import DistillensError, RunFailure
    from eval_harness.generation.engine import MODEL_KEYS, check_backend_arguments
    from eval_harness.generation.evaluate import run_evaluation
    from eval_harness.generation.task import Settings
    from eval_harness.judging.judgement import Judgement
    from eval_harness.judging.request import judge
    from eval_harness.protocols.protocol import PROTOCOLS, Protocol, make_protocol, request_seed
    from eval_harness.report.rows import printable
    from eval_harness.results.folder import load_results
    from eval_harness.results.schema import (
        NOT_AVAILABLE,
        Results,
        Sample,
        TaskResult,
        metric_names,
    )
    from eval_harness.scoring.metrics import METRICS
    from eval_harness.scoring.reference_notes import task_notes
    from eval_harness.scoring.rouge import rouge_l
    from eval_harness.scoring.rouge_words import SIGHTS, num_without_words, word_notes
    from eval_harness.scoring.row_scores import row_scores, scored_by
    from eval_harness.scoring.score import score_files
    from eval_harness.shared.text.template_table import TEMPLATES, register_template

_HOMES = {
    "eval_harness.api": ("compare", "evaluate", "evaluate_systems", "score"),
    "eval_harness.backends.base": (
        "Answer",
        "Backend",
        "Continuation",
        "LogLikelihood",
        "Request",
        "Sampling",
    ),
    "eval_harness.backends.table": ("BACKENDS", "register_backend"),
    "eval_harness.benchmarks.definition": ("Benchmark", "load_benchmark"),
    "eval_harness.benchmarks.registry": ("find_benchmarks", "select_benchmarks"),
    "eval_harness.comparison.compare": (
        "ALPHA",
        "NO_DIFFERENCE",
        "Comparison",
        "Comparisons",
        "verdict",
    ),
    "eval_harness.errors": ("DistillensError", "RunFailure"),
    "eval_harness.generation.engine": ("MODEL_KEYS", "check_backend_arguments"),
    "eval_harness.generation.evaluate": ("run_evaluation",),
    "eval_harness.generation.task": ("Settings",),
    "eval_harness.judging.judgement": ("Judgement",),
    "eval_harness.judging.request": ("judge",),
    "eval_harness.protocols.protocol": ("PROTOCOLS", "Protocol", "make_protocol", "request_seed"),
    "eval_harness.report.rows": ("printable",),
    "eval_harness.results.folder": ("load_results",),
    "eval_harness.results.schema": (
        "NOT_AVAILABLE",
        "Results",
        "Sample",
        "TaskResult",
        "metric_names",
    ),
    "eval_harness.scoring.metrics": ("METRICS",),
    "eval_harness.scoring.reference_notes": ("task_notes",),
    "eval_harness.scoring.rouge": ("rouge_l",),
    "eval_harness.scoring.rouge_words": ("SIGHTS", "num_without_words", "word_notes"),
    "eval_harness.scoring.row_scores": ("row_scores", "scored_by"),
    "eval_harness.scoring.score": ("score_files",),
    "eval_harness.shared.text.template_table": ("TEMPLATES", "register_template"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "ALPHA",
    "BACKENDS",
    "METRICS",
    "MODEL_KEYS",
    "NOT_AVAILABLE",
    "NO_DIFFERENCE",
    "PROTOCOLS",
    "SIGHTS",
    "TEMPLATES",
    "Answer",
    "Backend",
    "Benchmark",
    "Comparison",
    "Comparisons",
    "Continuation",
    "DistillensError",
    "Judgement",
    "LogLikelihood",
    "Protocol",
    "Request",
    "Results",
    "RunFailure",
    "Sample",
    "Sampling",
    "Settings",
    "TaskResult",
    "check_backend_arguments",
    "compare",
    "evaluate",
    "evaluate_systems",
    "find_benchmarks",
    "judge",
    "load_benchmark",
    "load_results",
    "make_protocol",
    "metric_names",
    "num_without_words",
    "printable",
    "register_backend",
    "register_template",
    "request_seed",
    "rouge_l",
    "row_scores",
    "run_evaluation",
    "score",
    "score_files",
    "scored_by",
    "select_benchmarks",
    "task_notes",
    "verdict",
    "word_notes",
]


def __getattr__(name: str) -> object:
    """Public names, imported on first use."""
    if name in _HOME_OF:
        return getattr(import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
