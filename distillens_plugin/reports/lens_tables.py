"""The numbers of a lens map as tables of its page."""

from distillens_plugin.reports.lens_record import LensMap, ModelReadings
from distillens_plugin.reports.lens_words import READINGS, noun, shown_pair
from eval_harness.shared.pages.tables import Grid

_HEADER = (
    "layer",
    "RMS of the stream",
    "SD of the logits",
    "entropy (nats)",
    "KL from the final layer (nats)",
    "median rank of the next token",
    "next token is first (share)",
    "its probability (mean)",
)


def layer_grids(model: ModelReadings) -> list[Grid]:
    """A table for each reading, a row for each layer."""
    return [
        Grid(
            f"The numbers of the {noun(model.role)}, {READINGS[way]}",
            _HEADER,
            [
                (
                    str(layer),
                    f"{each.stream_rms[index]:.3f}",
                    f"{each.logits_std[index]:.2f}",
                    f"{each.entropy[index]:.3f}",
                    f"{each.divergence_to_final[index]:.3f}",
                    f"{each.true_rank[index]:,.1f}",
                    f"{each.top1[index]:.3f}",
                    f"{each.true_probability[index]:.3f}",
                )
                for index, layer in enumerate(each.layers)
            ],
        )
        for way, each in model.statistics.items()
    ]


def gradient_grid(found: LensMap) -> Grid | None:
    """The lens's gradient at each pair beside that of plain distillation; None without a lens."""
    if not found.gradients:
        return None
    return Grid(
        f"The gradient of {found.term} beside that of forward KL on the final logits",
        (
            *("pair (student-teacher)", "norm", "loss (nats)", "radial share"),
            *("unembedding: ratio", "cosine", "other parameters: ratio", "cosine"),
        ),
        [
            (
                shown_pair(each.pair),
                each.norm,
                f"{each.loss:.4f}",
                f"{each.radial:.2f}",
                *_numbers(each.unembedding),
                *_numbers(each.others),
            )
            for each in found.gradients
        ],
        caption="The ratio compares the lengths of the two gradients. A negative cosine undoes "
        "what the final logits teach, and a radial share near 1 only changes the length of the "
        "student's stream.",
    )


def _numbers(part: tuple[float, float] | None) -> tuple[str, str]:
    return ("none", "none") if part is None else (f"{part[0]:.3f}", f"{part[1]:.2f}")
