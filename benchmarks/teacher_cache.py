"""What the teacher cache saves: epoch times with and without it, as ratios from one run.

    OMP_NUM_THREADS=1 python benchmarks/teacher_cache.py [--pair small|gpt2] [--repeats 3]

One process, one thread, process CPU time. Every variant trains the same student on the same
batches of the quickstart's GSM8K rows through the runner's own parts; the variants alternate, and
the ratio of their medians is printed. Weights are random, which does not affect the times. With
--teacher FOLDER a trained teacher replaces the small pair's, and the error of the stored states is
printed: KL(computed || stored) of each next-token distribution, read through its final norm.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml

REPO = Path(__file__).resolve().parent.parent
QUICKSTART = REPO / "recipes" / "quickstart"
# Layers and widths: the quickstart's own pair, and GPT-2 120M distilled from 350M.
PAIRS: dict[str, dict[str, Any]] = {
    "small": {
        "student": {"n_layer": 2, "n_embd": 96, "n_head": 4},
        "teacher": {"n_layer": 4, "n_embd": 192, "n_head": 6},
        "layers": {"student": [1, 2], "teacher": [2, 4]},
        "num_rows": 256,
        "batch_size": 16,
    },
    "gpt2": {
        "student": {"n_layer": 12, "n_embd": 768, "n_head": 12, "vocab_size": 50257},
        "teacher": {"n_layer": 24, "n_embd": 1024, "n_head": 16, "vocab_size": 50257},
        "layers": {"auto": 5},
        "num_rows": 4,
        "batch_size": 2,
    },
}


def save_random_teacher(folder: Path, pair: dict[str, Any]) -> None:
    """The pair's teacher, with the quickstart's tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from distillens_plugin.models.tokenizers import load_tokenizer

    tokenizer = load_tokenizer(str(QUICKSTART / "tokenizer"))
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    settings = {"vocab_size": len(tokenizer), "n_positions": 512, **ids, **pair["teacher"]}
    torch.manual_seed(1)
    GPT2LMHeadModel(GPT2Config(**settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_recipe(folder: Path, pair: dict[str, Any], teacher: Path) -> Path:
    """A recipe for the pair."""
    terms = {
        "kd": {"criterion": {"key": "distillens.logits_kd", "kwargs": {"divergence": "rkl"}}},
        "lens": {
            "criterion": {"key": "DistillLensLoss", "kwargs": {"layers": pair["layers"]}},
        },
    }
    recipe = {
        "models": {
            "teacher_model": {"name_or_path": str(teacher)},
            "student_model": {
                "init": {"config": {"model_type": "gpt2", "n_positions": 512, **pair["student"]}}
            },
        },
        "datasets": {
            "train": {"path": str(QUICKSTART / "train.jsonl"), "num_rows": pair["num_rows"]}
        },
        "train": {
            "num_epochs": 2,
            "train_data_loader": {"kwargs": {"batch_size": pair["batch_size"]}},
            "optimizer": {"key": "AdamW", "kwargs": {"lr": 1.0e-4}, "max_grad_norm": 1.0},
            "scheduler": {"key": "constant", "kwargs": {}},
            "criterion": {
                "key": "distillens.weighted_sum",
                "kwargs": {"sub_terms": {n: {**t, "weight": 1.0} for n, t in terms.items()}},
            },
        },
        "teacher_cache": {"path": "./cache"},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


class Bench:
    """One experiment, whose box can read its teacher in several ways."""

    def __init__(self, folder: Path, pair: dict[str, Any], teacher: Path | None) -> None:
        from distillens_plugin.experiment.accelerator import make_accelerator
        from distillens_plugin.experiment.build import build_experiment
        from distillens_plugin.experiment.data import load_data
        from distillens_plugin.recipe.loading import load_recipe
        from distillens_plugin.training.trainer import Trainer

        if teacher is None:
            teacher = folder / "teacher"
            save_random_teacher(teacher, pair)
        recipe = load_recipe(str(write_recipe(folder, pair, teacher)))
        self.accelerator = make_accelerator(recipe, tracker_folder=None)
        self.experiment = build_experiment(recipe, self.accelerator, load_data(recipe))
        self.box = self.experiment.box
        self.trainer = Trainer(self.box, self.accelerator)
        self.plain = self.box.teacher_forward_proc

    def attach(self, dtype: str, folder: Path) -> Any:
        """Opens an empty cache; returns it with its own forward procedure."""
        from distillens_plugin.teacher_cache import attach_teacher_cache

        recipe = self.experiment.recipe
        assert recipe.teacher_cache is not None
        recipe.teacher_cache.dtype = dtype  # type: ignore[assignment]
        recipe.teacher_cache.path = str(folder)
        self.box.teacher_forward_proc = self.plain
        return attach_teacher_cache(self.experiment)

    def epoch(self, forward_proc: Any) -> float:
        """CPU seconds of an epoch; always the same batches."""
        from distillens_plugin.training.window import windows

        self.box.teacher_forward_proc = forward_proc
        self.box.pre_epoch_process(epoch=0)
        started_at = time.process_time()
        for window in windows(self.box.train_data_loader, 1, self.accelerator):
            self.trainer.step(window)
        self.box.post_epoch_process()
        return time.process_time() - started_at


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pair", choices=[*PAIRS, "all"], default="all")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--teacher", type=Path, help="a trained teacher for the small pair")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.teacher is not None:
        arguments.pair = "small"
    for name in PAIRS if arguments.pair == "all" else [arguments.pair]:
        with tempfile.TemporaryDirectory() as folder:
            run(name, Path(folder), arguments.repeats, arguments.teacher)
    return 0


def run(name: str, folder: Path, repeats: int, teacher: Path | None) -> None:
    """Prints the ratios of one pair."""
    pair = PAIRS[name]
    bench = Bench(folder, pair, teacher)
    bench.epoch(bench.plain)  # allocators and lazy initialisation
    caches = {dtype: bench.attach(dtype, folder / dtype) for dtype in ("bfloat16", "int8")}
    filling = {dtype: bench.epoch(cache.forward) for dtype, cache in caches.items()}
    times: dict[str, list[float]] = {"no cache": [], **{dtype: [] for dtype in caches}}
    for _ in range(repeats):
        times["no cache"].append(bench.epoch(bench.plain))
        for dtype, cache in caches.items():
            times[dtype].append(bench.epoch(cache.forward))
    base = statistics.median(times["no cache"])
    positions = caches["int8"].plan.num_positions
    print(
        f"{name}: student {pair['student']['n_layer']} x {pair['student']['n_embd']}, teacher "
        f"{pair['teacher']['n_layer']} x {pair['teacher']['n_embd']}, {len(bench.experiment.train)}"
        f" rows, {positions:,} supervised of {sum(bench.experiment.train.lengths):,} tokens"
    )
    print(f"{'epoch':30} {'x no cache':>10}  {'spread':>13}  {'bytes a position':>16}")
    for variant, seconds in times.items():
        ratios = [value / base for value in seconds]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        size = ""
        if variant in caches:
            size = f"{caches[variant].plan.num_bytes / positions:,.0f}"
            print(f"{variant + ', first (fills it)':30} {filling[variant] / base:10.2f}")
        label = variant if variant == "no cache" else f"{variant}, later (reads it)"
        print(f"{label:30} {statistics.median(ratios):10.2f}  {spread:>13}  {size:>16}")
    for cache in caches.values():
        assert cache.forward.num_teacher_batches == len(bench.box.train_data_loader)
        cache.close()
    if teacher is not None:
        print_divergences(bench, caches)


@torch.no_grad()
def print_divergences(bench: Bench, caches: dict[str, Any]) -> None:
    """KL(computed || stored) in nats per token, mean over the first batches, by layer."""
    from distillens_plugin.data.supervision import supervised_from_targets
    from distillens_plugin.fused import head_logits

    layers = [*PAIRS["small"]["layers"]["teacher"], "final"]
    sums: dict[tuple[str, Any], list[float]] = {}
    for _, (batch, targets) in zip(range(4), bench.box.train_data_loader, strict=False):
        supervised = supervised_from_targets(targets)
        outputs = {}
        for variant, proc in (("", bench.plain), *((d, c.forward) for d, c in caches.items())):
            bench.box.teacher_forward_proc = proc
            outputs[variant] = bench.box.get_teacher_output(batch, targets, None)
        for layer in layers:
            logs = {}
            for variant, (output, io_dict) in outputs.items():
                rows = (
                    output.final_rows(supervised)
                    if layer == "final"
                    else output.layer_rows(io_dict, layer, supervised, norm="final")
                )
                logs[variant] = head_logits(rows, output.lens.head()).double().log_softmax(-1)
            for variant in caches:
                kl = (logs[""].exp() * (logs[""] - logs[variant])).sum(-1)
                sums.setdefault((variant, layer), []).extend(kl.tolist())
    for (variant, layer), values in sums.items():
        mean, largest = statistics.fmean(values), max(values)
        print(f"{variant}, layer {layer}: KL mean {mean:.1e}, largest {largest:.1e} nats")


if __name__ == "__main__":
    sys.exit(main())
