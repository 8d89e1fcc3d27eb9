"""A whole training step: plain KD, KD and lens by distillens, and a reference-style lens.

    OMP_NUM_THREADS=1 python benchmarks/step.py [--pair quickstart|gpt2] [--repeats 5]

Ratios from one run. Time is process CPU time on one thread; the variants alternate in one process
and share models, batch and optimiser. Memory is the peak resident size during forward and
backward minus the size before, each variant in its own process (Linux). Weights are random.

Legend: B rows, T tokens, V vocabulary, K layer pairs, D width.
"""

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
DISTILLENS = "KD and lens, distillens"
TIME_BAR = 1.15


@dataclass(frozen=True)
class Pair:
    """transformers configs of both models, the layer pairs, and rows and tokens of a batch."""

    student: dict[str, Any]
    teacher: dict[str, Any]
    layers: dict[str, Any]
    batch: tuple[int, int]


def gpt2(layers: int, width: int, heads: int) -> dict[str, Any]:
    """A GPT-2 with its own vocabulary of 50,257."""
    return {"model_type": "gpt2", "n_layer": layers, "n_embd": width, "n_head": heads}


def quickstart_pair() -> Pair:
    """Models, pairs and batch of recipes/quickstart_three_pairs.yaml; its rows have 176 tokens."""
    from distillens_plugin.recipe.loading import load_recipe

    recipe = load_recipe(RECIPES / "quickstart_three_pairs.yaml")
    init = recipe.models.trained.init
    assert init is not None
    assert init.config is not None
    teacher = json.loads((RECIPES / "quickstart/teacher/config.json").read_text(encoding="utf-8"))
    batch_size = recipe.train.train_data_loader.kwargs.batch_size
    assert batch_size is not None
    (_, lens), *_ = recipe.lens_terms()
    student = {**init.config, "vocab_size": teacher["vocab_size"]}
    return Pair(student, teacher, lens.layers.model_dump(exclude_none=True), (batch_size, 176))


PAIRS: dict[str, Callable[[], Pair]] = {
    "quickstart": quickstart_pair,
    "gpt2": lambda: Pair(gpt2(12, 768, 12), gpt2(24, 1024, 16), {"auto": 5}, (4, 128)),
}


def build_model(config: dict[str, Any]) -> nn.Module:
    """A random model without dropout."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {key: value for key, value in config.items() if key != "model_type"}
    built = AutoConfig.for_model(config["model_type"], **fields)
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(built, name):
            setattr(built, name, 0.0)
    return AutoModelForCausalLM.from_config(built)


class Rows(torch.utils.data.Dataset):
    """B rows of T random tokens, the last third of each supervised."""

    def __init__(self, pair: Pair, vocab_size: int) -> None:
        num_rows, num_tokens = pair.batch
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(vocab_size, pair.batch, generator=generator).tolist()
        prompt = num_tokens - num_tokens // 3
        self.lengths = [num_tokens] * num_rows
        self.examples = [
            {"input_ids": row, "labels": [-100] * prompt + row[prompt:], "id": str(index)}
            for index, row in enumerate(tokens)
        ]

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.examples[index]


class Step:
    """Models, batch and optimiser of a pair, in a torchdistill box."""

    def __init__(self, pair: Pair) -> None:
        from torchdistill.core.distillation import DistillationBox

        import distillens_plugin  # noqa: F401 (registers with torchdistill)
        from distillens_plugin.data.collate import collate
        from distillens_plugin.lens.discovery import find_anatomy
        from distillens_plugin.lens.layers import resolve_pairs

        torch.manual_seed(0)
        self.student: Any = build_model(pair.student)
        self.teacher: Any = build_model(pair.teacher).eval()
        student, teacher = find_anatomy(self.student), find_anatomy(self.teacher)
        self.pairs: list[tuple[Any, Any]] = resolve_pairs(
            pair.layers, student.num_layers, teacher.num_layers
        )
        rows = Rows(pair, student.vocab_size)
        self.batch, self.targets = collate([rows[index] for index in range(len(rows))])
        self.mask_BT = torch.zeros(pair.batch)
        self.mask_BT.view(-1)[self.targets["positions"]] = 1.0
        self.box = DistillationBox(
            self.teacher,
            self.student,
            {"train": rows},
            train_config(pair, self.pairs, student.blocks, teacher.blocks),
            torch.device("cpu"),
            None,
            False,
            1.0,
        )
        self.box.pre_epoch_process(epoch=0)

    def kd(self) -> Tensor:
        """Plain KD: both models' own logits at all positions, the loss masked afterwards."""
        with torch.no_grad():
            teacher = self.teacher(**self.batch, use_cache=False).logits
        student = self.student(**self.batch, use_cache=False).logits
        return self._masked_kd(student, teacher)

    def distillens(self) -> Tensor:
        """distillens.weighted_sum of KD and lens on the headless models."""
        return self.box.forward_process(self.batch, self.targets)

    def reference(self) -> Tensor:
        """KD as above, and the lens as in the paper's code: every position is projected."""
        with torch.no_grad():
            teacher = self.teacher(**self.batch, use_cache=False, output_hidden_states=True)
            hidden = torch.stack([teacher.hidden_states[b] for _, b in self.pairs])
            p_KBTV = self.teacher.lm_head(hidden).softmax(-1, dtype=torch.float32)
        student = self.student(**self.batch, use_cache=False, output_hidden_states=True)
        hidden = torch.stack([student.hidden_states[a] for a, _ in self.pairs])
        q_KBTV = self.student.lm_head(hidden).softmax(-1, dtype=torch.float32)
        m_KBTV = 0.5 * (p_KBTV + q_KBTV)
        log_m = (m_KBTV + 1e-8).log()
        jsd_KBT = 0.5 * (
            (p_KBTV * ((p_KBTV + 1e-8).log() - log_m)).sum(-1)
            + (q_KBTV * ((q_KBTV + 1e-8).log() - log_m)).sum(-1)
        )
        lens = (jsd_KBT * self.mask_BT).sum() / (self.mask_BT.sum() * len(self.pairs))
        return self._masked_kd(student.logits, teacher.logits) + lens

    def _masked_kd(self, student_BTV: Tensor, teacher_BTV: Tensor) -> Tensor:
        """Forward KL without the teacher's entropy, as the reference code computes it."""
        p_BTV = functional.softmax(teacher_BTV, dim=-1, dtype=torch.float32)
        log_q_BTV = functional.log_softmax(student_BTV, dim=-1, dtype=torch.float32)
        loss_BT = -(p_BTV * log_q_BTV).sum(-1)
        return (loss_BT * self.mask_BT).sum() / self.mask_BT.sum()


def train_config(
    pair: Pair, pairs: list[tuple[Any, Any]], student_blocks: str, teacher_blocks: str
) -> dict[str, Any]:
    """What a torchdistill box takes: KD by FKL and the lens by JSD, each with weight 1."""
    from distillens_plugin.lens.layers import forward_hook_config

    def model(layers: list[int], blocks: str) -> dict[str, Any]:
        hooks = forward_hook_config(layers, blocks)
        return {"forward_proc": "distillens.forward", "forward_hook": hooks}

    terms = {
        "kd": {"criterion": {"key": "distillens.logits_kd", "kwargs": {"divergence": "fkl"}}},
        "lens": {"criterion": {"key": "DistillLensLoss", "kwargs": {"layers": pair.layers}}},
    }
    loader = {
        "dataset_id": "train",
        "requires_supp": False,
        "collate_fn": "distillens.collate",
        "sampler": {"class_or_func": torch.utils.data.SequentialSampler},
        "kwargs": {"batch_size": pair.batch[0]},
    }
    return {
        "num_epochs": 1,
        "train_data_loader": loader,
        "val_data_loader": {},
        "teacher": {**model([b for _, b in pairs], teacher_blocks), "requires_grad": False},
        "student": model([a for a, _ in pairs], student_blocks),
        "optimizer": {"key": "AdamW", "kwargs": {"lr": 1.0e-5}},
        "criterion": {
            "key": "distillens.weighted_sum",
            "kwargs": {
                "sub_terms": {name: {**term, "weight": 1.0} for name, term in terms.items()}
            },
            "func2extract_model_loss": "distillens.no_model_loss",
        },
        "pre_epoch_process": "distillens.pre_epoch",
        "post_forward_process": "distillens.post_forward",
    }


def variants(step: Step) -> dict[str, Callable[[], Tensor]]:
    """The losses by name; the first is the base of all ratios."""
    return {
        "plain KD": step.kd,
        DISTILLENS: step.distillens,
        "KD and lens, reference-style": step.reference,
    }


def measure_time(pair: Pair, repeats: int) -> dict[str, list[tuple[float, float]]]:
    """CPU seconds of (forward and backward, optimiser) by variant; the variants alternate."""
    step = Step(pair)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in variants(step)}
    for turn in range(repeats + 1):
        for name, loss in variants(step).items():
            started_at = time.process_time()
            loss().backward()
            computed_at = time.process_time()
            step.box.optimizer.step()
            step.box.optimizer.zero_grad()
            stepped_at = time.process_time()
            if turn > 0:  # the first turn warms up
                times[name].append((computed_at - started_at, stepped_at - computed_at))
    return times


def measure_memory(pair: Pair, variant: str) -> int:
    """Peak resident bytes during one forward and backward, minus those before it."""
    step = Step(pair)
    loss = variants(step)[variant]
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = status_bytes("VmRSS")
    # 5 resets the high-water mark, which loading the models may have pushed up.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    loss().backward()
    return status_bytes("VmHWM") - before


def status_bytes(field: str) -> int:
    """A size of this process as reported by Linux."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.partition(f"{field}:")[2].split()[0]) * 1024


def report(name: str, pair: Pair, repeats: int) -> None:
    """Prints times and memory of a pair's variants relative to plain KD."""
    num_rows, num_tokens = pair.batch
    sizes = Step(pair)
    shown = [
        f"{role} {model.config.num_hidden_layers} x {model.config.hidden_size}"
        for role, model in (("student", sizes.student), ("teacher", sizes.teacher))
    ]
    print(
        f"{name}: {', '.join(shown)}, V {sizes.student.config.vocab_size}, K {len(sizes.pairs)}, "
        f"{num_rows} x {num_tokens} tokens, one third supervised"
    )
    del sizes
    print(f"{'':30}{'step time':>10}{'(spread)':>16}{'no optimiser':>15}{'peak extra memory':>22}")
    times = measure_time(pair, repeats)
    base_time: tuple[float, float] | None = None
    base_bytes = 0
    for variant, taken in times.items():
        wholes = [sum(pieces) for pieces in taken]
        whole = statistics.median(wholes)
        computed = statistics.median(pieces[0] for pieces in taken)
        command = [sys.executable, __file__, "--pair", name, "--memory", variant]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        peak_bytes = int(done.stdout.split()[-1])
        if base_time is None:
            base_time, base_bytes = (whole, computed), peak_bytes
        spread = f"({min(wholes) / base_time[0]:.2f} to {max(wholes) / base_time[0]:.2f})"
        print(
            f"{variant:30}{whole / base_time[0]:>8.2f} "
            f"x{spread:>16}{computed / base_time[1]:>13.2f} x{peak_bytes / base_bytes:>9.2f} x "
            f"{peak_bytes / 2**20:>5,.0f} MiB",
            flush=True,
        )
        if variant == DISTILLENS:
            met = whole / base_time[0] <= TIME_BAR and peak_bytes < base_bytes
    print(f"bar (at most {TIME_BAR} x the time, less memory): {'met' if met else 'MISSED'}\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pair", choices=[*PAIRS, "all"], default="all")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", metavar="VARIANT", help="measure this one's memory and stop")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory is not None:
        print(measure_memory(PAIRS[arguments.pair](), arguments.memory))
        return 0
    for name in PAIRS if arguments.pair == "all" else [arguments.pair]:
        report(name, PAIRS[name](), arguments.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
