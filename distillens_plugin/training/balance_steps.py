"""When `weight: auto` is measured: over the second half of the warm-up.

A student with random weights gives a lens hardly any gradient in its first steps: there the ratio
of two gradients is in the hundreds and thousands. Later it stays within a factor of two
(docs/choosing.md).
"""

from distillens_plugin.experiment.experiment import Experiment

# Few enough to cost little beside a run, and enough that one batch does not decide.
NUM_MEASUREMENTS = 10
# Without a warm-up: Adam's own averages need some steps, too.
MINIMUM = 10
LARGEST_SHARE = 0.25


def measured_steps(experiment: Experiment) -> list[int]:
    """The steps that are measured, from 1; the weights hold from the last of them on."""
    num_steps = experiment.num_steps
    return spread(num_steps, experiment.recipe.train.scheduler.warmup_steps(num_steps))


def spread(num_steps: int, warmup_steps: int) -> list[int]:
    """At most 10 steps, evenly over the second half of the warm-up, and ending with it.

    A warm-up shorter than 10 steps counts as 10; one of more than a quarter of the run ends there.
    """
    last = max(1, min(max(MINIMUM, warmup_steps), int(LARGEST_SHARE * num_steps)))
    span = last - last // 2
    count = min(NUM_MEASUREMENTS, span)
    return [last - k * span // count for k in reversed(range(count))]
