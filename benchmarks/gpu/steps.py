"""A whole training step with random weights: KD by logits, KD fused, and KD with five lens pairs.

Weights and AdamW's state are bfloat16, half of each row is supervised. Model FLOPs are those that
every method needs, so that the utilisations compare: both bodies at all positions, both final heads
at the supervised ones, each once forward, and the student's once backward. The peak is a matrix
product's of 8192 x 8192 on this device.

Legend: B batch, T tokens, V vocabulary, D width, L blocks.
"""

import gc
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from clock import measure
from records import Fields, Record
from stage import Call, call_of
from torch import Tensor

CONFIGS = Path(__file__).resolve().parent.parent.parent / "tests" / "configs"
# Student, teacher, rows and tokens of a batch.
PAIRS = {
    "GPT-2 120M <- 1.5B": ("gpt2", "teacher-gpt2-1.5B", 16, 512),
    "Qwen2.5 1.5B <- 3B": ("Qwen2.5-1.5B", "Qwen2.5-3B", 8, 512),
    "TinyLlama 1.1B <- 7B": ("TinyLlama_v1.1", "Llama-2-7b-hf", 8, 512),
}
NUM_PAIRS = 5


@dataclass
class Step:
    """Both models, the batch, the optimiser and the model FLOPs of a step."""

    student: Any
    teacher: Any
    ids: Tensor
    labels: Tensor
    optimizer: torch.optim.Optimizer
    flops: float


def config_of(folder: str, *, tiny: bool) -> Any:
    """A shipped configuration without dropout; `tiny` keeps its architecture."""
    from transformers import AutoConfig

    fields = json.loads((CONFIGS / folder / "config.json").read_text(encoding="utf-8"))
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    if tiny:
        small = {"num_hidden_layers": 7, "hidden_size": 64, "num_attention_heads": 4}
        small |= {"num_key_value_heads": 4, "intermediate_size": 96, "vocab_size": 301}
        for name, value in small.items():
            if hasattr(config, name):
                setattr(config, name, value)
        config.bos_token_id = config.eos_token_id = 2
        if hasattr(config, "layer_types"):
            config.layer_types = config.layer_types[:7]
    return config


def build(call: Call, name: str) -> Step:
    """Random models on the device."""
    from transformers import AutoModelForCausalLM

    student_name, teacher_name, rows, tokens = PAIRS[name]
    if call.tiny:
        rows, tokens = 2, 32
    torch.manual_seed(0)
    made = []
    for folder in (student_name, teacher_name):
        config = config_of(folder, tiny=call.tiny)
        with call.device:
            made.append(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16))
    student, teacher = made[0].train(), made[1].eval().requires_grad_(False)
    vocab = min(student.config.vocab_size, teacher.config.vocab_size)
    ids = torch.randint(3, vocab, (rows, tokens), device=call.device)
    labels = ids.clone()
    labels[:, : tokens // 2] = -100
    fused = call.device.type == "cuda"
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-6, fused=fused)
    supervised = int((labels[:, 1:] != -100).sum())
    flops = 3 * forward_flops(student, rows, tokens, supervised)
    flops += forward_flops(teacher, rows, tokens, supervised)
    return Step(student, teacher, ids, labels, optimizer, flops)


def forward_flops(model: Any, rows: int, tokens: int, supervised: int) -> float:
    """Of one forward: the body's matrices, causal attention, and the head's supervised rows."""
    config = model.config
    head = config.vocab_size * config.hidden_size
    embeddings = {id(p): p.numel() for p in model.get_input_embeddings().parameters()}
    output = {id(p): p.numel() for p in model.get_output_embeddings().parameters()}
    outside = sum({**embeddings, **output}.values())
    body = sum(p.numel() for p in model.parameters()) - outside
    # Two products of T/2 earlier tokens with D numbers, for each token and block.
    attention = config.num_hidden_layers * tokens * config.hidden_size
    return 2.0 * rows * tokens * (body + attention) + 2.0 * supervised * head


def by_logits(step: Step) -> Tensor:
    """Plain KD: both models' logits everywhere, forward KL in float32, masked afterwards."""
    with torch.no_grad():
        teacher = step.teacher(input_ids=step.ids, use_cache=False).logits
    student = step.student(input_ids=step.ids, use_cache=False).logits
    p_BTV = F.softmax(teacher, dim=-1, dtype=torch.float32)
    log_q_BTV = F.log_softmax(student, dim=-1, dtype=torch.float32)
    loss_BT = -(p_BTV * log_q_BTV).sum(-1)[:, :-1]
    mask_BT = step.labels[:, 1:] != -100
    return (loss_BT * mask_BT).sum() / mask_BT.sum()


def attached(step: Step, lens: Any) -> Tensor:
    """The attached lens's own loss, the heads switched off."""
    with torch.no_grad():
        step.teacher(input_ids=step.ids, use_cache=False)
    step.student(input_ids=step.ids, use_cache=False)
    return lens.loss(step.labels)  # type: ignore[no-any-return]


def whole(step: Step, loss_of: Callable[[Step], Tensor]) -> None:
    """Forward, backward, optimiser."""
    loss_of(step).backward()  # type: ignore[no-untyped-call]
    step.optimizer.step()
    step.optimizer.zero_grad()


def figures(step: Step, loss_of: Callable[[Step], Tensor], record: Record, peak: float) -> Fields:
    """A method's step in ms, tokens a second, and its share of the peak."""
    # Three warm-up steps: AdamW's state comes with the first, and compiled passes settle.
    for _ in range(3):
        whole(step, loss_of)
    fields = measure([partial(whole, step, loss_of)], record.device, most=10, seconds=2.5)
    seconds = fields["ms"] / 1e3
    fields["tokens_per_s"] = round(step.ids.numel() / seconds)
    fields["utilisation"] = step.flops / seconds / peak
    return fields


def with_lens(step: Step, layers: dict[str, int] | None, record: Record, peak: float) -> Fields:
    """KD fused, with a lens if there are layers."""
    from distillens_plugin import AttachedLens

    with AttachedLens(step.student, step.teacher, layers, kd="fkl", headless=True) as lens:  # type: ignore[arg-type]
        return figures(step, lambda made: attached(made, lens), record, peak)


def peak_flops(call: Call) -> float:
    """FLOP a second of a large bfloat16 matrix product."""
    size = 128 if call.tiny else 8192
    pairs = [torch.randn(2, size, size, device=call.device).bfloat16() for _ in range(2)]
    fields = measure([partial(torch.mm, *pair) for pair in pairs], call.device, most=20)
    return 2.0 * size**3 / fields["ms"] * 1e3


def size_of(model: Any) -> str:
    """Its parameters, in millions."""
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.0f}M"


def measure_pair(call: Call, record: Record, name: str, peak: float) -> None:
    """The three methods on one pair; ratios are to KD by logits."""
    built: list[Step] = []

    def make() -> Fields:
        built.append(build(call, name))
        return {"student": size_of(built[0].student), "teacher": size_of(built[0].teacher)}

    if record.run(f"{name}: models", make) is None:
        return
    (step,) = built
    methods: dict[str, Callable[[], Fields]] = {
        "KD by logits": lambda: figures(step, by_logits, record, peak),
        "KD fused": lambda: with_lens(step, None, record, peak),
        "KD fused, 5 lens pairs": lambda: with_lens(step, {"auto": NUM_PAIRS}, record, peak),
    }
    base: Fields | None = None
    for method, run in methods.items():

        def one(run: Callable[[], Fields] = run, base: Fields | None = base) -> Fields:
            step.optimizer.zero_grad()
            fields = run()
            if base is not None:
                fields["time_ratio"] = fields["ms"] / base["ms"]
                if base["peak_mib"]:
                    fields["memory_ratio"] = fields["peak_mib"] / base["peak_mib"]
            return fields

        fields = record.run(f"{name}: {method}", one)
        base = fields if method == "KD by logits" else base


def main() -> int:
    call = call_of(__doc__ or "")
    record = call.record("steps")
    found: list[float] = []

    def peak() -> Fields:
        found.append(peak_flops(call))
        return {"tflops": found[0] / 1e12}

    record.run("matrix product", peak)
    for name in PAIRS:
        measure_pair(call, record, name, found[0] if found else float("nan"))
        gc.collect()  # the next pair needs the memory
        if call.device.type == "cuda":
            torch.cuda.empty_cache()
    record.finish()
    return int(bool(record.failed))


if __name__ == "__main__":
    sys.exit(main())
