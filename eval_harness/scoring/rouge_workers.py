"""rouge-score in several processes: it is pure Python, and a few milliseconds per row add up.

Workers are fresh interpreters that read pairs from standard input, not multiprocessing children:
a fork is unsafe beside CUDA and threads, and a spawn would import the caller's main script again.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from eval_harness.errors import RunFailure
from eval_harness.scoring.unicode_words import UnicodeTokenizer

# About a second of rouge-score, which is how long a worker takes to start. The cost is the size of
# the table of the longest common subsequence, in characters squared.
_COST_PER_WORKER = 100_000_000
_CHARACTERS_PER_WORD = 5


def score_in_processes(
    pairs: Sequence[tuple[str, str]], *, num_workers: int, tokenizer: str
) -> list[float]:
    """ROUGE-L F-measure of (target, prediction) pairs, in order.

    Args:
        pairs: any Python strings.
        num_workers: the largest number of processes; small inputs are scored in this one.
        tokenizer: a key of `rouge.TOKENIZERS`.
    Raises:
        RunFailure: a worker failed; gives its last line.
    """
    cost = [_size(target, tokenizer) * _size(prediction, tokenizer) for target, prediction in pairs]
    num_workers = min(num_workers, len(pairs), 1 + sum(cost) // _COST_PER_WORKER)
    if num_workers <= 1:
        return score_pairs(pairs, tokenizer)
    # The most expensive pairs are dealt out first, so that no worker gets all of them.
    order = sorted(range(len(pairs)), key=cost.__getitem__, reverse=True)
    shares = [order[worker::num_workers] for worker in range(num_workers)]
    workers = []
    try:
        workers += [_start_worker(tokenizer) for _ in shares]
        with ThreadPoolExecutor(num_workers) as threads:
            jobs = [
                threads.submit(worker.communicate, json.dumps([pairs[i] for i in share]))
                for worker, share in zip(workers, shares, strict=True)
            ]
            try:
                outputs = [job.result() for job in jobs]
            except BaseException:
                # Leaving the pool waits for its threads, which wait for the workers.
                _kill(workers)
                raise
    finally:
        _kill(workers)
    values = [0.0] * len(pairs)
    for worker, share, (output, errors) in zip(workers, shares, outputs, strict=True):
        if worker.returncode != 0:
            last = (errors.strip().splitlines() or ["no message"])[-1]
            raise RunFailure(f"a rouge-score worker ended with {worker.returncode}: {last}")
        for index, value in zip(share, json.loads(output), strict=True):
            values[index] = value
    return values


def _size(text: str, tokenizer: str) -> int:
    """Characters, as text in ASCII has for as many words."""
    one_a_word = tokenizer == "unicode" and not text.isascii()
    return 1 + len(text) * (_CHARACTERS_PER_WORD if one_a_word else 1)


def score_pairs(pairs: Sequence[tuple[str, str]], tokenizer: str) -> list[float]:
    """ROUGE-L F-measure of (target, prediction) pairs, in this process."""
    from rouge_score.rouge_scorer import RougeScorer
    from rouge_score.tokenizers import DefaultTokenizer

    words = DefaultTokenizer(use_stemmer=True)
    scorer = RougeScorer(
        ["rougeL"], tokenizer=UnicodeTokenizer(words) if tokenizer == "unicode" else words
    )
    return [float(scorer.score(target, text)["rougeL"].fmeasure) for target, text in pairs]


def _start_worker(tokenizer: str) -> subprocess.Popen[str]:
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "eval_harness.scoring.rouge_workers", tokenizer],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="ascii",
        errors="backslashreplace",
        env={**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "ascii:backslashreplace"},
    )


def _kill(workers: Sequence[subprocess.Popen[str]]) -> None:
    for worker in workers:
        if worker.poll() is None:
            worker.kill()
            worker.wait()


if __name__ == "__main__":
    json.dump(score_pairs(json.load(sys.stdin), sys.argv[1]), sys.stdout)
