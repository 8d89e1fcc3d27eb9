"""How distillens differs from two papers' code: `python benchmarks/differences.py [PART ...]`.

Each part (default: all) is computed in three ways: as in the other code (other_code.py), by
distillens, and in float64:

- mask: the lens loss of DistillLens over a batch (arXiv 2602.13567). Its code stacks the layers'
  logits row by row and repeats the token mask layer by layer. With more than one row in a batch,
  most layers are read at another row's positions.
- epsilon: the same code adds 1e-8 inside the logarithm of the mixture.
- skew: DistiLLM-2's skew reverse KL (arXiv 2503.07067) detaches the student inside the mixture.

Weights and tokens are random: the numbers show the size and sign of each difference, not its effect
on training. If distillens differs from float64 by more than the bar, the script prints NOT MET and
exits with 1.
One thread, one to two minutes.
"""

import argparse
import copy
import os
import sys
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from other_code import (
    PAIRS,
    Row,
    Sizes,
    float64_lens,
    jsd_with_epsilon,
    random_gpt2,
    random_rows,
    reference_lens,
    skew_rkl_detached,
    skew_rkl_float64,
)
from torch import Tensor, nn
from torch.nn import functional

GPT2_VOCAB = 50257
PARTS = ("mask", "epsilon", "skew")


class Checks:
    """Prints each measured error of distillens beside its bar."""

    def __init__(self) -> None:
        self.missed = 0

    def __call__(self, what: str, value: float, bar: float) -> None:
        met = value <= bar
        self.missed += not met
        print(f"  {what:<58} {value:9.1e}  {'ok' if met else 'NOT MET'} (bar {bar:.0e})")


def cosine(left: Tensor, right: Tensor) -> float:
    """Cosine of two gradients, in float64."""
    return functional.cosine_similarity(left.double(), right.double(), dim=0).item()


def apart(value: Tensor, truth: Tensor) -> float:
    """|value - truth| / |truth|, in float64."""
    return ((value.double() - truth.double()).norm() / truth.double().norm()).item()


class TokenRows(torch.utils.data.Dataset):
    """Rows as a torchdistill box takes them."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.rows[index]


def distillens_lens(
    student: nn.Module, teacher: nn.Module, rows: list[Row], sizes: Sizes
) -> Tensor:
    """DistillLensLoss in a plain torchdistill box."""
    from torchdistill.core.distillation import DistillationBox

    import distillens_plugin  # noqa: F401 (registers with torchdistill)

    def model(layers: tuple[int, ...]) -> dict[str, Any]:
        hooks = {"output": [f"transformer.h.{layer - 1}" for layer in layers]}
        return {"forward_proc": "distillens.forward", "forward_hook": hooks}

    layers = {"student": list(sizes.student_layers), "teacher": list(sizes.teacher_layers)}
    lens = {"key": "DistillLensLoss", "kwargs": {"layers": layers, "norm": "identity"}}
    loader = {
        "dataset_id": "train",
        "requires_supp": False,
        "collate_fn": "distillens.collate",
        "sampler": {"class_or_func": torch.utils.data.SequentialSampler},
        "kwargs": {"batch_size": len(rows)},
    }
    config = {
        "num_epochs": 1,
        "train_data_loader": loader,
        "val_data_loader": {},
        "teacher": {**model(sizes.teacher_layers), "requires_grad": False},
        "student": model(sizes.student_layers),
        "optimizer": {"key": "AdamW", "kwargs": {"lr": 1e-3}},
        "criterion": {
            "key": "distillens.weighted_sum",
            "kwargs": {"sub_terms": {"lens": {"criterion": lens, "weight": 1.0}}},
            "func2extract_model_loss": "distillens.no_model_loss",
        },
        "pre_epoch_process": "distillens.pre_epoch",
        "post_forward_process": "distillens.post_forward",
    }
    box = DistillationBox(
        teacher, student, {"train": TokenRows(rows)}, config, torch.device("cpu"), None, False, 1.0
    )
    box.pre_epoch_process(epoch=0)
    batch, targets = next(iter(box.train_data_loader))
    return box.forward_process(batch, targets)


def loss_and_gradient(loss: Tensor, student: nn.Module) -> tuple[float, Tensor]:
    """The loss, and its gradient by all of the student's parameters as one float64 vector."""
    student.zero_grad()
    loss.backward()
    parts = [
        (p.grad if p.grad is not None else torch.zeros_like(p)).double().flatten()
        for p in student.parameters()
    ]
    return loss.item(), torch.cat(parts)


def measure_mask(check: Checks, num_batches: int) -> None:
    """Loss and gradient of the lens: the paper's code, distillens, float64."""
    print(
        "\nThe token mask. Lens loss (JSD, no norm, five layer pairs) of random GPT-2s, "
        f"median and range of {num_batches} batches:"
    )
    for name, sizes in PAIRS.items():
        for num_rows in (1, 4):
            truths, losses, cosines, ours = [], [], [], [0.0, 0.0]
            for seed in range(num_batches):
                student = random_gpt2(*sizes.student, seed=2 * seed)
                teacher = random_gpt2(*sizes.teacher, seed=2 * seed + 1).eval()
                rows = random_rows(num_rows, seed)
                arguments = (rows, sizes)
                wide = copy.deepcopy(student).double()
                truth, right = loss_and_gradient(
                    float64_lens(wide, copy.deepcopy(teacher).double(), *arguments), wide
                )
                value, gradient = loss_and_gradient(
                    reference_lens(student, teacher, *arguments), student
                )
                truths.append(truth)
                losses.append(abs(value / truth - 1))
                cosines.append(cosine(gradient, right))
                value, gradient = loss_and_gradient(
                    distillens_lens(student, teacher, *arguments), student
                )
                ours = [max(ours[0], abs(value / truth - 1)), max(ours[1], apart(gradient, right))]
            rows_text = "1 row" if num_rows == 1 else f"{num_rows} rows"
            print(f" {name}, {rows_text} per batch; JSD {spread(truths)}")
            print(f"  the paper's code: loss off by {spread(losses, percent=True)}")
            print(f"  the paper's code: cosine with the right gradient {spread(cosines)}")
            check("distillens: loss off from float64, relative, worst", ours[0], 1e-5)
            check("distillens: gradient off from float64, relative, worst", ours[1], 1e-4)


def spread(values: list[float], *, percent: bool = False) -> str:
    """Median and range."""
    ordered = sorted(values)
    middle = torch.tensor(ordered).median().item()
    form = "{:.1%}" if percent else "{:.2f}"
    low, mid, high = (form.format(value) for value in (ordered[0], middle, ordered[-1]))
    return f"{mid} ({low} to {high})"


def measure_epsilon(check: Checks) -> None:
    """The JSD of a model with itself, which is 0."""
    from distillens_plugin.divergences import jensen_shannon
    from distillens_plugin.fused import lens_divergence

    print("\n1e-8 inside the logarithm. JSD of a model with itself, nats per token (32 rows):")
    generator = torch.Generator().manual_seed(0)
    for vocab in (2048, 32000, GPT2_VOCAB, 151936):
        logits = torch.randn(32, vocab, generator=generator)
        value = jsd_with_epsilon(logits, logits).mean().item()
        print(f"  V {vocab:>7,}: the paper's code {value:+.2e}")
        if vocab == GPT2_VOCAB:
            check(
                "distillens, formula: |JSD|", jensen_shannon(logits, logits).abs().max().item(), 0
            )
    hidden = torch.randn(32, 64, generator=generator).requires_grad_()
    weight = torch.randn(GPT2_VOCAB, 64, generator=generator) * 0.3
    loss = lens_divergence(hidden, weight, hidden.detach(), weight, divergence="jsd")
    loss.backward()
    assert hidden.grad is not None
    check("distillens, fused: |JSD|", abs(loss.item()), 0)
    check("distillens, fused: largest gradient", hidden.grad.abs().max().item(), 0)


def measure_skew(check: Checks) -> None:
    """Value and gradient by the student's logits."""
    from distillens_plugin.divergences import skew_reverse_kl

    def ours_skew_rkl(teacher_logits: Tensor, student_logits: Tensor, alpha: float) -> Tensor:
        return skew_reverse_kl(teacher_logits, student_logits, alpha=alpha)

    print("\nDistiLLM-2's skew reverse KL, alpha 0.1, gradient by the student's logits (32 rows):")
    for vocab, deviation in ((2048, 1.0), (2048, 2.0), (GPT2_VOCAB, 2.0)):
        generator = torch.Generator().manual_seed(0)
        teacher_logits = deviation * torch.randn(32, vocab, generator=generator)
        student_logits = deviation * torch.randn(32, vocab, generator=generator)
        results = []
        for divergence in (skew_rkl_float64, skew_rkl_detached, ours_skew_rkl):
            logits = student_logits.clone().requires_grad_()
            value = divergence(teacher_logits, logits, 0.1).mean()
            value.backward()
            assert logits.grad is not None
            results.append((value.item(), logits.grad.flatten()))
        (truth, right), (theirs, gradient), (ours, our_gradient) = results
        print(
            f" V {vocab:,}, logits of standard deviation {deviation:.0f}: value {theirs:.4f} "
            f"(float64 {truth:.4f}), gradient {apart(gradient, right):.0%} apart, "
            f"cosine {cosine(gradient, right):.3f}"
        )
        check("distillens: value off from float64, relative", abs(ours / truth - 1), 1e-5)
        check("distillens: gradient off from float64, relative", apart(our_gradient, right), 5e-4)


def main(arguments: list[str] | None = None) -> int:
    """Measures the named parts; returns 1 if distillens differs from float64 by more than a bar."""
    parser = argparse.ArgumentParser(description="How distillens differs from two papers' code.")
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--batches", type=int, default=5, help="random batches of each pair (5)")
    parsed = parser.parse_args(arguments)
    unknown = [part for part in parsed.parts if part not in PARTS]
    if unknown:
        parser.error(f"found {', '.join(unknown)}; expected {', '.join(PARTS)}")
    torch.set_num_threads(1)
    check = Checks()
    for part in parsed.parts or PARTS:
        if part == "mask":
            measure_mask(check, parsed.batches)
        elif part == "epsilon":
            measure_epsilon(check)
        else:
            measure_skew(check)
    return 1 if check.missed else 0


if __name__ == "__main__":
    sys.exit(main())
