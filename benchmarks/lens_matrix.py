"""The matrix of layer divergences: one walk with each layer's logits once, against a double loop.

    python benchmarks/lens_matrix.py [--repeats 3] [--threads 1]

The double loop is what one would write first: for every pair of layers, both layers' logits at all
positions and their JSD. Both run in turns on the same random models and rows; the ratios are of
medians. Memory is what a process of its own held at most, above what it held with its models and
rows after a forward pass of each (Linux).
"""

import argparse
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Case:
    """Blocks, width and vocabulary of student and teacher; positions that are read."""

    name: str
    student: tuple[int, int]
    teacher: tuple[int, int]
    vocab: int
    rows: int
    tokens: int = 64


CASES = (
    Case("quickstart's sizes", (4, 96), (4, 192), 2048, rows=8),
    Case("12 and 24 blocks", (12, 128), (24, 256), 8192, rows=1),
    Case("GPT-2's vocabulary", (4, 128), (6, 256), 50257, rows=2),
)


def built(case: Case) -> tuple[Any, Any, list[Any]]:
    """Two random GPT-2 and a batch in which all tokens but the first are supervised."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from distillens_plugin.data.supervision import Supervised, find_supervised

    models = []
    for seed, (blocks, width) in enumerate((case.student, case.teacher)):
        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=case.vocab,
            n_layer=blocks,
            n_embd=width,
            n_head=4,
            bos_token_id=0,
            eos_token_id=0,
        )
        models.append(GPT2LMHeadModel(config).eval())
    ids = torch.randint(1, case.vocab, (case.rows, case.tokens))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return models[0], models[1], [(batch, Supervised(*find_supervised(ids)))]


def walk(student: Any, teacher: Any, batches: list[Any]) -> np.ndarray:
    """What `distillens lens` and `layers: {by: divergence}` do."""
    from distillens_plugin.lens_maps.matrix import layer_matrix

    return layer_matrix(student, teacher, batches).values


def double_loop(student: Any, teacher: Any, batches: list[Any]) -> np.ndarray:
    """Whole logits of both layers, anew for every pair."""
    from distillens_plugin.divergences import make_divergence
    from distillens_plugin.fused.naive import head_logits
    from distillens_plugin.lens.known_lenses import lens_of
    from distillens_plugin.lens_maps.rows import read_rows, reading

    jsd = make_divergence("jsd")
    layers = [list(range(lens_of(model).num_layers + 1)) for model in (student, teacher)]
    total, count = np.zeros([len(each) for each in layers]), 0
    with reading(student, teacher):
        for batch, supervised in batches:
            ours = read_rows(student, batch, supervised, layers[0])
            theirs = read_rows(teacher, batch, supervised, layers[1])
            count += len(ours)
            for i, j in np.ndindex(*total.shape):
                q = head_logits(ours.read[i], ours.head)
                p = head_logits(theirs.read[j], theirs.head)
                total[i, j] += jsd(p, q).double().sum().item()
    return total / count


WAYS: dict[str, Callable[..., np.ndarray]] = {"walk": walk, "double loop": double_loop}


def measure_memory(case: Case, way: str, answer: Any) -> None:
    """In a process of its own: MB at most, above those of models and rows."""
    from distillens_plugin.data.supervision import Supervised

    torch.set_num_threads(1)
    student, teacher, batches = built(case)
    one = [batches[0][0], Supervised(batches[0][1].positions[:1], batches[0][1].labels[:1])]
    WAYS[way](student, teacher, [one])  # what models and libraries take at their first use
    Path("/proc/self/clear_refs").write_text("5")  # the most that was held counts from now
    before = held("VmRSS")
    WAYS[way](student, teacher, batches)
    answer.put(held("VmHWM") - before)


def held(name: str) -> float:
    """MB of this process."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def memory_of(case: Case, way: str) -> float:
    """MB of `measure_memory`."""
    context = multiprocessing.get_context("spawn")
    answer = context.Queue()
    process = context.Process(target=measure_memory, args=(case, way, answer))
    process.start()
    found = float(answer.get())
    process.join()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, CPU, {arguments.threads} threads, float32")
    for case in CASES:
        models = built(case)
        seconds: dict[str, list[float]] = {way: [] for way in WAYS}
        found = {}
        for _ in range(arguments.repeats):
            for way, run in WAYS.items():
                started_at = time.perf_counter()
                found[way] = run(*models)
                seconds[way].append(time.perf_counter() - started_at)
        medians = {way: statistics.median(times) for way, times in seconds.items()}
        memory = {way: memory_of(case, way) for way in WAYS}
        off = np.abs(found["walk"] - found["double loop"]).max()
        positions = case.rows * (case.tokens - 1)
        print(
            f"{case.name}: {found['walk'].shape[0]} x {found['walk'].shape[1]} layers, "
            f"{positions} positions, vocabulary {case.vocab:,}: walk {medians['walk']:.2f} s, "
            f"double loop {medians['double loop']:.2f} s, "
            f"{medians['double loop'] / medians['walk']:.1f} times as long; memory "
            f"{memory['walk']:.0f} and {memory['double loop']:.0f} MB; values apart by {off:.1e}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
