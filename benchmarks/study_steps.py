"""What a step of each method of a study costs, as ratios to one of them.

    OMP_NUM_THREADS=1 python benchmarks/study_steps.py recipes/studies/quickstart_forms.yaml
        [--methods fkl,lens] [--steps 4] [--repeats 5]

Whole training steps (forward of both models, loss, backward, optimiser) on the study's own rows,
the same ones for every method. The methods take turns in one process, so that other load on the
machine meets all of them. Time is process CPU time on the CPU, and wall time on a GPU.
"""

import argparse
import statistics
import sys
import time

import torch
from training_steps import TrainingSteps

from distillens_plugin.study.load import load_study
from distillens_plugin.study.plan import make_run


class Steps(TrainingSteps):
    """A run of a method."""

    def take(self, num_steps: int) -> float:
        """Seconds of a step, the mean over the next ones."""
        on_gpu = torch.cuda.is_available()
        clock = time.perf_counter if on_gpu else time.process_time
        taken = [next(self.windows) for _ in range(num_steps)]
        started_at = clock()
        for window in taken:
            self.trainer.step(window)
        if on_gpu:
            torch.cuda.synchronize()
        return (clock() - started_at) / num_steps


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("study", help="YAML file of a study")
    parser.add_argument("--methods", help="names, with commas; default: all; the first is 1.00")
    parser.add_argument("--steps", type=int, default=4, help="steps of a turn")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each method")
    given = parser.parse_args()
    study = load_study(given.study)
    names = given.methods.split(",") if given.methods else list(study.methods)
    unknown = [name for name in names if name not in study.methods]
    if unknown:
        parser.error(f"--methods: {unknown[0]!r}, expected some of {', '.join(study.methods)}")
    torch.set_num_threads(1)
    runs = {name: Steps(make_run(study, "main", name, study.seeds[0]).recipe) for name in names}
    turns: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(given.repeats + 1):
        for name, run in runs.items():
            seconds = run.take(given.steps)
            if repeat > 0:  # the first turn warms up
                turns[name].append(seconds)
    print(f"{'method':32}{'ms a step':>10}{'to the first':>14}{'(of each turn)':>18}")
    for name, taken in turns.items():
        ratios = [one / base for one, base in zip(taken, turns[names[0]], strict=True)]
        spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
        print(
            f"{name:32}{1e3 * statistics.median(taken):>10.0f}{statistics.median(ratios):>14.2f}"
            f"{spread:>18}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
