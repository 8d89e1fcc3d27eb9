"""The lens by the teacher's readout, written out in float64 for models of any family."""

import copy

import torch
from pair import batch, run_both
from small_models import small_model

from distillens_plugin.attached.attached_lens import AttachedLens

PAIRS = [(1, 2), (2, 4)]
LAYERS = {"student": [1, 2], "teacher": [2, 4]}
# Other width, other vocabulary, and a norm and head that could be trained.
FAMILY_NORMS = {"gpt2": "transformer.ln_f", "llama": "model.norm"}


def models(student="gpt2", teacher="llama", *, vocab=72):
    return (
        small_model(student, layers=3, width=32, seed=1).train(),
        small_model(teacher, layers=5, width=48, vocab=vocab, seed=2),
    )


def attached(student, teacher, **options):
    return AttachedLens(student, teacher, LAYERS, readout="teacher", **options)


def value_of(lens, student, teacher, ids, labels, count=None):
    run_both(student, teacher, ids)
    return lens.loss(labels, num_items_in_batch=count)


def streams64(model, ids, labels):
    """[N, D] of every layer at supervised positions, and the [N, V] logits; float64."""
    wanted = labels[:, 1:] != -100
    output = model(input_ids=ids, output_hidden_states=True)
    states = [hidden[:, :-1][wanted] for hidden in output.hidden_states]
    return states, output.logits[:, :-1][wanted]


def divergences64(copies, maps, ids, labels, *, teacher="llama", norm="identity", temperature=1.0):
    """[pairs, N] JSD at 0.5 of both models through the teacher's readout.

    Args:
        copies: float64 copies of the student and the teacher.
        maps: by pair, float64 (weight, bias).
    """
    ours, theirs = (streams64(model, ids, labels)[0] for model in copies)
    final = copies[1].get_submodule(FAMILY_NORMS[teacher])
    head = copies[1].get_output_embeddings().weight

    def log_probs(rows):
        rows = final(rows) if norm == "final" else rows
        return torch.log_softmax(rows @ head.T / temperature, -1)

    found = []
    for (a, b), (weight, bias) in zip(PAIRS, maps, strict=True):
        p, q = log_probs(theirs[b].detach()), log_probs(ours[a] @ weight.T + bias)
        m = ((p.exp() + q.exp()) / 2).log()
        found.append((p.exp() * (p - m) + q.exp() * (q - m)).sum(-1) / 2)
    return torch.stack(found)


def copies64(*of):
    return [copy.deepcopy(model).double() for model in of]


def maps64(lens, name="lens"):
    parameters = lens.trained_parameters()
    return [
        tuple(
            parameters[f"{name}.projections.{index}.{part}"].detach().double().requires_grad_()
            for part in ("weight", "bias")
        )
        for index in range(len(PAIRS))
    ]


__all__ = ["LAYERS", "PAIRS", "batch", "run_both"]
