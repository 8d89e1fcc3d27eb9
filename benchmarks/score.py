"""CPU time of scoring a large benchmark: ROUGE-L, exact match, intervals and answer statistics.

    python benchmarks/score.py [--rows 23916] [--seeds 5] [--references FILE] [--scorer NAME]

References are the `output` texts of a JSON Lines file (the shipped GSM8K rows by default), repeated
until there are enough; each answer is another row's text. The default size is uinst (23,916 rows)
with the protocol's five seeds. Prints one JSON object.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from eval_harness.results.schema import Sample
from eval_harness.scoring.score import read_references, score_samples
from eval_harness.scoring.task_metrics import task_metrics

T = TypeVar("T")
SHIPPED = Path(__file__).parent.parent / "eval_harness" / "benchmarks" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=23_916)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--references", type=Path, default=SHIPPED / "gsm8k.jsonl")
    parser.add_argument("--scorer", help="rouge-score-rs or rouge-score; default: the fastest")
    args = parser.parse_args()

    samples = make_samples(args.references, num_rows=args.rows, num_seeds=args.seeds)
    scorer, score_cpu_s, score_wall_s = timed(lambda: score_samples(samples, backend=args.scorer))
    metrics, metrics_cpu_s, metrics_wall_s = timed(lambda: task_metrics(samples))
    result = {
        "scorer": scorer,
        "references": args.references.name,
        "num_rows": args.rows,
        "num_seeds": args.seeds,
        "score_cpu_s": round(score_cpu_s, 2),
        "score_wall_s": round(score_wall_s, 2),
        "metrics_cpu_s": round(metrics_cpu_s, 2),
        "metrics_wall_s": round(metrics_wall_s, 2),
        "total_cpu_s": round(score_cpu_s + metrics_cpu_s, 2),
        "rougeL": metrics["rougeL,none"],
    }
    print(json.dumps(result, indent=2))


def make_samples(path: Path, *, num_rows: int, num_seeds: int) -> list[Sample]:
    """Rows of real text whose answers are other rows' references."""
    texts = read_references(path).texts
    samples = []
    for row in range(num_rows):
        # Steps without a common factor with most lengths, so that answers do not repeat early.
        answers = [texts[(row * 7 + seed * 31 + 1) % len(texts)][0] for seed in range(num_seeds)]
        samples.append(
            Sample(
                doc_id=row,
                doc={"id": str(row)},
                target=texts[row % len(texts)],
                arguments={},
                resps=answers,
                filtered_resps=answers,
                seeds=list(range(num_seeds)),
            )
        )
    return samples


def timed(work: Callable[[], T]) -> tuple[T, float, float]:
    """What `work` returns, and its CPU seconds (worker processes included) and wall seconds."""
    cpu, wall = cpu_seconds(), time.perf_counter()
    value = work()
    return value, cpu_seconds() - cpu, time.perf_counter() - wall


def cpu_seconds() -> float:
    """CPU seconds of this process and the children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


if __name__ == "__main__":
    main()
