"""Whole training steps on a device: small random models, AttachedLens, against the CPU in float32.

A step is forward, backward and AdamW; what is compared is the loss and the weights' gradients.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Case = tuple[str, Callable[[], dict[str, Any]]]
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_head": 4, "n_positions": 64},
    "llama": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    },
}
DEPTH = {"gpt2": "n_layer", "llama": "num_hidden_layers"}
VOCAB, ROWS, TOKENS = 515, 4, 40
LENS = {"norm": "final", "kd": "fkl", "cross_entropy": 0.5, "lens_weight": 2.0}


def small(family: str, layers: int, seed: int) -> Any:
    """A random model without dropout, with weights wide enough that its lens is not flat."""
    from transformers import AutoConfig, AutoModelForCausalLM

    fields = {**FAMILIES[family], DEPTH[family]: layers, "vocab_size": VOCAB}
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(family, **fields, **ids, initializer_range=0.1)
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(config)


def batch(device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and labels [B, T]; the first third of each row is not supervised."""
    ids = torch.randint(3, VOCAB, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, : TOKENS // 3] = -100
    return ids.to(device), labels.to(device)


def step(
    student: nn.Module,
    teacher: nn.Module,
    device: torch.device,
    *,
    autocast: torch.dtype | None = None,
    teacher_device: torch.device | None = None,
    headless: bool = False,
) -> tuple[float, dict[str, Tensor]]:
    """The loss and the gradients by name, in float64 on the CPU."""
    from distillens_plugin import AttachedLens

    ids, labels = batch(device)
    layers = {"student": [1, 2], "teacher": [2, 3]}
    scaler = torch.amp.GradScaler(device.type, enabled=autocast == torch.float16)
    with AttachedLens(student, teacher, layers, headless=headless, **LENS) as lens:  # type: ignore[arg-type]
        with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
            student(input_ids=ids, use_cache=False)
            with torch.no_grad():
                teacher(input_ids=ids.to(teacher_device or device), use_cache=False)
            loss = lens.loss(labels)
        optimizer = torch.optim.AdamW([p for p in student.parameters() if p.requires_grad], lr=1e-4)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        gradients = {
            name.replace("_orig_mod.", ""): p.grad.detach().cpu().double().clone()
            for name, p in student.named_parameters()
            if p.grad is not None
        }
        before = [p.detach().clone() for p in student.parameters() if p.requires_grad]
        scaler.step(optimizer)
        scaler.update()
    moved = [p for p in student.parameters() if p.requires_grad]
    if not any((a != b).any() for a, b in zip(before, moved, strict=True)):
        raise RuntimeError("the optimiser changed no weight")
    return loss.item(), gradients


def compared(
    found: tuple[float, dict[str, Tensor]], truth: tuple[float, dict[str, Tensor]], bound: float
) -> dict[str, Any]:
    """Errors relative to the truth: the loss's, and the gradients' as one vector."""
    if set(found[1]) != set(truth[1]):
        odd = sorted(set(found[1]) ^ set(truth[1]))
        raise RuntimeError(f"gradients of other parameters: {odd[:4]}")
    mine, other = (
        torch.cat([t.flatten() for _, t in sorted(g.items())]) for g in (found[1], truth[1])
    )
    errors = {
        "loss": abs(found[0] - truth[0]) / abs(truth[0]),
        "gradient": ((mine - other).norm() / other.norm()).item(),
    }
    ok = all(value < bound for value in errors.values())
    result: dict[str, Any] = {"ok": ok, "worst": max(errors.values()), "values": errors}
    if not ok:
        result["error"] = f"off by {errors}, expected below {bound}"
    return result


def pair(family: str) -> tuple[Any, Any]:
    """A student of 3 blocks in train mode and a teacher of 4."""
    return small(family, 3, 1).train(), small(family, 4, 2).requires_grad_(False)


def checked(family: str, device: torch.device, variant: str, bound: float) -> dict[str, Any]:
    """A variant's step on the device against the plain step on the CPU in float32."""
    cpu = torch.device("cpu")
    student, teacher = pair(family)
    if variant == "lora":
        student = with_lora(student)
    truth = step(copy.deepcopy(student), teacher, cpu)
    teacher_device = cpu if variant == "teacher on the CPU" else device
    student, teacher = student.to(device), teacher.to(teacher_device)
    options: dict[str, Any] = {"teacher_device": teacher_device}
    if variant in ("bfloat16", "float16"):
        options["autocast"] = getattr(torch, variant)
    elif variant == "compiled":
        student = torch.compile(student)
    elif variant == "checkpointing":
        reentrant = {"use_reentrant": False}
        student.gradient_checkpointing_enable(gradient_checkpointing_kwargs=reentrant)
    elif variant == "headless":
        options["headless"] = True
    return compared(step(student, teacher, device, **options), truth, bound)


def with_lora(student: nn.Module) -> nn.Module:
    """LoRA on the attention, its B matrices not zero, so that every adapter has a gradient."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, lora_dropout=0.0, target_modules=["q_proj", "v_proj"])
    torch.manual_seed(3)
    adapted = get_peft_model(student, config)  # type: ignore[arg-type]
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.05)
    return adapted  # type: ignore[no-any-return]


def fallback(device: torch.device) -> dict[str, Any]:
    """A compiled pass that fails must warn once and give the uncompiled result."""
    from distillens_plugin.divergences import make_divergence
    from distillens_plugin.fused.compiled import CompiledSegment
    from distillens_plugin.fused.segment import (
        GroupKind,
        SegmentKind,
        SegmentResult,
        segment_block,
    )

    def broken(*args: object) -> SegmentResult:
        raise RuntimeError("the compiler is not here")

    group = GroupKind(make_divergence("jsd"), temperature=1.0, teacher=0)
    plain = (1.0, None)
    kind = SegmentKind((group,), plain, plain, 33, torch.float32, False, True)
    eager = partial(segment_block, kind)
    block = CompiledSegment(eager, "jsd")
    block.function = broken
    student, teacher = torch.randn(2, 5, 33, device=device)
    rest = (None, None, [None], None, None, None)
    expected = student.clone()
    eager(expected, [teacher], *rest)
    same = True
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            products = student.clone()
            block(products, [teacher], *rest)
            same = same and torch.equal(products, expected)
    ok = same and len(caught) == 1
    return {
        "ok": ok,
        **({} if ok else {"error": f"same {same}, warnings {len(caught)}, expected 1"}),
    }


# Half precision's bounds are those of its matrix products through three blocks.
VARIANTS = {
    "float32": 1e-4,
    "bfloat16": 5e-2,
    "float16": 1e-2,
    "checkpointing": 1e-4,
    "headless": 1e-4,
    "lora": 1e-4,
    "teacher on the CPU": 1e-4,
    "compiled": 1e-4,
}


def model_cases(device: torch.device) -> Iterator[Case]:
    """GPT-2 and Llama; what is slow to compile comes last, and once."""
    yield "compile_blocks falls back", partial(fallback, device)
    for variant, bound in VARIANTS.items():
        for family in FAMILIES:
            if (variant in ("lora", "compiled")) and family == "gpt2":
                continue
            yield f"step {family} {variant}", partial(checked, family, device, variant, bound)
