"""Finds a causal LM's blocks, readout and head by watching one forward pass; no table of classes.

What is found is checked before it is used: head(readout(last block)) must equal the model's
own logits.
"""

import itertools

import torch
from torch import Tensor, nn

from distillens_plugin.lens.config_facts import ModelFacts, block_lists, facts_from_config
from distillens_plugin.lens.probe import (
    Call,
    Trace,
    forward_parameters,
    hidden_states_of,
    hook_prefix,
    logits_of,
    plain_model,
    refuse_sharded,
    run_probe,
    same_tensor,
    trace_forward,
    undisturbed,
    unwrap,
)
from distillens_plugin.lens.readout import Anatomy, Lens, unembedding
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.causality import NOT_CAUSAL, reads_later_tokens

__all__ = [
    "Anatomy",
    "Lens",
    "ModelFacts",
    "facts_from_config",
    "find_anatomy",
    "hidden_states_of",
    "plain_model",
    "self_check",
    "supports_headless",
    "unwrap",
]

# Largest |difference| / largest |logit| that rounding explains. The check repeats the model's own
# operations, so it is nearly exact; the margin allows for autocast and TF32 matrix products.
TOLERANCES = {
    torch.float64: 1e-6,
    torch.float32: 2e-3,
    torch.float16: 1e-2,
    torch.bfloat16: 5e-2,
}


def find_anatomy(model: nn.Module) -> Anatomy:
    """Finds a model's anatomy with tiny forward passes (eval mode, no gradient, mode restored).

    Args:
        model: a transformers causal LM, bare or in DDP, torch.compile or peft.
    Raises:
        DistillensError: not a causal LM that the lens can read; if the logits are not reproduced,
            with the self-check's measured error.
    """
    refuse_sharded(model)
    plain = plain_model(model)
    name = type(plain).__name__
    head_path = _head_path(plain)
    head = plain.get_submodule(head_path)
    weight, bias = unembedding(head)
    trace = trace_forward(plain)
    head_calls = trace.of(head_path)
    if len(head_calls) != 1 or head_calls[0].input is None:
        raise DistillensError(
            f"{name}: its forward calls the unembedding {head_path!r} {len(head_calls)} times, "
            "expected once on the final hidden states"
        )
    head_call = head_calls[0]
    blocks, last_block = _blocks(plain, trace, head_call)
    readout = _readout(trace, last_block, head_call)
    scale, softcap = _logit_transform(plain, head, trace)
    embedding = plain.get_input_embeddings()  # type: ignore[operator]
    hidden = last_block.hidden
    assert hidden is not None  # _blocks has checked it
    anatomy = Anatomy(
        blocks=hook_prefix(model) + blocks,
        num_layers=len(plain.get_submodule(blocks)),  # type: ignore[arg-type]
        readout=tuple(call.path for call in readout),
        norms=tuple(call.path for call in readout if _is_norm(call)),
        head=head_path,
        body=_body(plain, trace, head_call),
        scale=scale,
        softcap=softcap,
        width=hidden.shape[-1],
        head_width=weight.shape[1],
        vocab_size=weight.shape[0],
        tied=getattr(head, "weight", None) is getattr(embedding, "weight", weight),
        bias=bias is not None,
        dtype=weight.dtype,
    )
    _check(plain, anatomy, hidden, head_call, trace.logits)
    with undisturbed(plain):
        if reads_later_tokens(plain):
            raise DistillensError(f"{name}: {NOT_CAUSAL}")
    return anatomy


def self_check(model: nn.Module, anatomy: Anatomy) -> float:
    """Largest |head(readout(last block)) - logits| on the probe batch, over the largest |logit|."""
    plain = plain_model(model)
    trace = trace_forward(plain)
    blocks = anatomy.blocks.removeprefix(hook_prefix(model))
    hidden = trace.of(f"{blocks}.{anatomy.num_layers - 1}")[-1].hidden
    assert hidden is not None  # find_anatomy has checked it
    return _reconstruction_error(plain, anatomy, hidden, trace.logits)


def supports_headless(model: nn.Module) -> bool:
    """Whether `model(..., logits_to_keep=<no positions>)` runs the model without its head's work.

    Tried out: the logits must come back as [B, 0, V].
    """
    plain = plain_model(model)
    if "logits_to_keep" not in forward_parameters(plain):
        return False
    device = plain.get_input_embeddings().weight.device  # type: ignore[operator, union-attr]
    nothing = torch.empty(0, dtype=torch.long, device=device)
    with undisturbed(plain):
        try:
            logits = logits_of(plain, run_probe(plain, logits_to_keep=nothing))
        except DistillensError:
            return False
    return logits.dim() == 3 and logits.shape[1] == 0


def _head_path(plain: nn.Module) -> str:
    try:
        head = plain.get_output_embeddings()  # type: ignore[operator]
    except (AttributeError, NotImplementedError):
        head = None
    for path, module in plain.named_modules():
        if module is head:
            return path
    raise DistillensError(
        f"{type(plain).__name__} has no output embeddings; a transformers causal language model is "
        "needed (AutoModelForCausalLM)"
    )


def _blocks(plain: nn.Module, trace: Trace, head: Call) -> tuple[str, Call]:
    """The block list and its last block's call: each block reads what the one before returned."""
    candidates = block_lists(plain)
    for path in candidates:
        length = len(plain.get_submodule(path))  # type: ignore[arg-type]
        runs = [trace.of(f"{path}.{index}") for index in range(length)]
        if any(len(calls) != 1 for calls in runs):
            continue
        chain = [calls[0] for calls in runs]
        linked = all(
            before.left < after.entered and same_tensor(before.hidden, after.input)
            for before, after in itertools.pairwise(chain)
        )
        last = chain[-1].hidden
        if linked and last is not None and last.dim() == 3 and chain[-1].left < head.entered:
            return path, chain[-1]
    tried = f"tried: {', '.join(candidates)}" if candidates else "found no such list"
    raise DistillensError(
        f"{type(plain).__name__}: no list of blocks in which each reads, as its first argument, "
        f"what the one before returned ({tried}); this architecture is not supported"
    )


def _readout(trace: Trace, last_block: Call, head: Call) -> list[Call]:
    """Calls between the end of the last block and the head, except those without effect."""
    between = [
        call
        for call in trace.calls
        if last_block.left < call.entered and -1 < call.left < head.entered
    ]
    return [call for call in trace.outermost(between) if not same_tensor(call.input, call.hidden)]


def _is_norm(call: Call) -> bool:
    """Whether a call keeps the width and has only gains and biases, no matrix."""
    keeps_width = (
        call.input is not None and call.hidden is not None and call.input.shape == call.hidden.shape
    )
    return keeps_width and all(parameter.dim() <= 1 for parameter in call.module.parameters())


def _body(plain: nn.Module, trace: Trace, head: Call) -> str:
    bodies = [call for call in trace.calls if same_tensor(call.hidden, head.input)]
    bodies = [call for call in trace.outermost(bodies) if call.left < head.entered]
    if not bodies:
        raise DistillensError(
            f"{type(plain).__name__}: no module returns the hidden states that the unembedding "
            "reads, so something changes them in between; this architecture is not supported"
        )
    return bodies[-1].path


def _logit_transform(plain: nn.Module, head: nn.Module, trace: Trace) -> tuple[float, float | None]:
    """The scale and soft-cap between the head and the logits, measured.

    The head's output is replaced by a ramp of known numbers: what becomes of small ones shows the
    scale, and of large ones the cap. Real logits may be too small to show a cap.
    """
    exponents = torch.arange(-10, 16)
    ramp = torch.cat([torch.zeros(1), 2.0**exponents, -(2.0**exponents)])

    def replace(module: nn.Module, args: object, output: Tensor) -> Tensor:
        repeated = ramp.repeat(output.numel() // len(ramp) + 1)[: output.numel()]
        return repeated.view(output.shape).to(output.device)

    handle = head.register_forward_hook(replace)
    try:
        with undisturbed(plain):
            logits = logits_of(plain, run_probe(plain)).double().flatten().cpu()
    finally:
        handle.remove()
    if logits.numel() < len(ramp) or logits.numel() != trace.logits.numel():
        raise DistillensError(
            f"{type(plain).__name__}: found {logits.numel()} logits on the probe batch, expected "
            f"{trace.logits.numel()} and at least {len(ramp)}; this architecture is not supported"
        )
    logits = logits[: len(ramp)]
    ramp = ramp.double()
    scale = (logits[1] / ramp[1]).item()
    top, below = logits[len(exponents)].item(), logits[len(exponents) - 1].item()
    softcap = top if top < 1.5 * below else None
    expected = ramp * scale
    if softcap is not None:
        expected = softcap * torch.tanh(expected / softcap)
    error = ((logits - expected).abs() / expected.abs().clamp_min(abs(scale) * 2**-10)).max().item()
    if not error < TOLERANCES[torch.bfloat16]:
        raise DistillensError(
            f"{type(plain).__name__} changes the unembedding's output by more than a scale and a "
            f"soft-cap (off by {error:.2g} relative to softcap(scale * x)); it is not supported"
        )
    return scale, softcap


def _reconstruction_error(
    plain: nn.Module, anatomy: Anatomy, last_hidden: Tensor, own_logits: Tensor
) -> float:
    with undisturbed(plain):
        weight, bias = unembedding(plain.get_submodule(anatomy.head))
        rows = Lens(plain, anatomy).apply_readout(last_hidden, norm="final")
        if rows.shape[-1] != weight.shape[-1]:
            return float("inf")
        logits = anatomy.scale * nn.functional.linear(rows.to(weight.dtype), weight, bias).double()
        if anatomy.softcap is not None:
            logits = anatomy.softcap * torch.tanh(logits / anatomy.softcap)
        own = own_logits.double()
        if logits.shape != own.shape:
            return float("inf")
        return ((logits - own).abs().max() / own.abs().max().clamp_min(1e-30)).item()


def _check(
    plain: nn.Module, anatomy: Anatomy, last_hidden: Tensor, head: Call, own_logits: Tensor
) -> None:
    if not own_logits.isfinite().all():
        raise DistillensError(
            f"{type(plain).__name__}: its logits on a few tokens are not finite; its weights or "
            "config are damaged, or its dtype is too narrow"
        )
    error = _reconstruction_error(plain, anatomy, last_hidden, own_logits)
    # Under autocast the head computes in a lower precision than its weight has.
    used = head.hidden.dtype if head.hidden is not None else anatomy.dtype
    tolerance = max(TOLERANCES.get(used, 2e-3), TOLERANCES.get(anatomy.dtype, 2e-3))
    if not error <= tolerance:
        raise DistillensError(
            f"{type(plain).__name__}: self-check failed: head(readout(last block)) is off from the "
            f"model's own logits by {error:.3g} of the largest logit, allowed {tolerance:g} in "
            f"{str(used).removeprefix('torch.')} (blocks {anatomy.blocks}, readout "
            f"{', '.join(anatomy.readout) or 'none'}, head {anatomy.head}); this architecture is "
            "not supported"
        )
