"""Tokens a second for padded, grouped and packed batches of the quickstart's rows.

    OMP_NUM_THREADS=1 python benchmarks/packing.py [--max_length 512] [--steps 20] [--repeats 3]

Whole training steps of recipes/quickstart_three_pairs.yaml (forward of both models, loss, backward,
optimiser), on a GPU if there is one. The three kinds of batches take turns in one process. Each has
about the same number of tokens without padding: 8 rows, or as many packs as hold them. Time is
process CPU time on the CPU, and wall time on a GPU.
"""

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from training_steps import TrainingSteps

from distillens_plugin.recipe.loading import load_recipe

RECIPE = Path(__file__).resolve().parent.parent / "recipes/quickstart_three_pairs.yaml"
LOADER = "train.train_data_loader"
NUM_ROWS = 8
# BatchSampler takes the rows in the file's order, which says nothing about their lengths.
KINDS = {
    "padded": [
        f"{LOADER}.batch_sampler.key=BatchSampler",
        f"{LOADER}.batch_sampler.kwargs.drop_last=false",
    ],
    "grouped": [],
    "packed": [f"{LOADER}.packing=true"],
}


@dataclass
class Turn:
    """Some steps of one kind.

    Attributes:
        tokens: without padding.
        places: with padding.
    """

    seconds: float
    tokens: float
    places: int


class Steps(TrainingSteps):
    """A run of the quickstart whose steps are taken on demand."""

    def __init__(self, kind: str, max_length: int, batch_size: int) -> None:
        overrides = [
            *KINDS[kind],
            f"{LOADER}.kwargs.batch_size={batch_size}",
            f"datasets.train.max_length={max_length}",
            f"datasets.train.max_prompt_length={max_length * 3 // 4}",
        ]
        super().__init__(load_recipe(str(RECIPE), overrides=overrides))

    def take(self, num_steps: int) -> Turn:
        """The next steps, timed with the making of their batches."""
        on_gpu = torch.cuda.is_available()
        clock = time.perf_counter if on_gpu else time.process_time
        tokens, places = 0.0, 0
        started_at = clock()
        for _ in range(num_steps):
            window = next(self.windows)
            tokens += self.trainer.step(window).num_tokens
            places += sum(batch["input_ids"].numel() for batch, _ in window.batches)
        if on_gpu:
            torch.cuda.synchronize()
        return Turn(clock() - started_at, tokens, places)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--max_length", type=int, default=512, help="tokens of a pack")
    parser.add_argument("--steps", type=int, default=20, help="steps of a turn")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each kind")
    parser.add_argument("--rows", type=int, default=NUM_ROWS, help="rows of a batch")
    arguments = parser.parse_args()
    grouped = Steps("grouped", arguments.max_length, arguments.rows)
    lengths = grouped.experiment.train.lengths
    mean = statistics.mean(lengths)
    num_packs = max(1, round(arguments.rows * mean / arguments.max_length))
    runs = {
        "padded": Steps("padded", arguments.max_length, arguments.rows),
        "grouped": grouped,
        "packed": Steps("packed", arguments.max_length, num_packs),
    }
    turns: dict[str, list[Turn]] = {kind: [] for kind in runs}
    for repeat in range(arguments.repeats + 1):
        for kind, run in runs.items():
            turn = run.take(2 if repeat == 0 else arguments.steps)  # the first turn warms up
            if repeat > 0:
                turns[kind].append(turn)
    print(
        f"rows of {min(lengths)} to {max(lengths)} tokens, {mean:.0f} on average; batches of "
        f"{arguments.rows} rows or {num_packs} packs of up to {arguments.max_length} tokens"
    )
    print(f"{'':10}{'tokens/s':>10}{'(spread)':>20}{'to padded':>12}{'padding':>10}")
    base: float | None = None
    for kind, taken in turns.items():
        rates = [turn.tokens / turn.seconds for turn in taken]
        rate = statistics.median(rates)
        base = rate if base is None else base
        padding = 1 - sum(turn.tokens for turn in taken) / sum(turn.places for turn in taken)
        spread = f"({min(rates):,.0f} to {max(rates):,.0f})"
        print(f"{kind:10}{rate:>10,.0f}{spread:>20}{rate / base:>10.2f} x{padding:>10.1%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
