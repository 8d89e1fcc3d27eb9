"""What rounding does to stored teacher states: KL(computed || stored) of next-token distributions.

    python benchmarks/stored_states.py TEACHER [--rows 4] [--layers 5,10,15]

The teacher reads rows of the quickstart's validation data. Each layer's states are rounded as the
teacher cache would, and both are read through its unembedding: with the final norm, and without it
(`norm: identity`). `plain int8` is the form of older versions: one scale for all of a row.

Legend: N positions, D width.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "recipes" / "quickstart" / "valid.jsonl"


def plain_int8(rows_ND: Tensor) -> Tensor:
    """Rows rounded to 1 / 127 of each row's largest number."""
    scale_N1 = (rows_ND.abs().amax(dim=1, keepdim=True) / 127).clamp_min(1e-30)
    return (rows_ND / scale_N1).round() * scale_N1


def stored(dtype: str) -> Callable[[Tensor], Tensor]:
    """Rows as the cache gives them back."""
    from distillens_plugin.teacher_cache.codec import decode, encode

    return lambda rows: decode("x", encode("x", rows, dtype), torch.float32)


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "bfloat16": stored("bfloat16"),
    "int8": stored("int8"),
    "plain int8": plain_int8,
}


@torch.no_grad()
def main() -> int:
    from transformers import AutoModelForCausalLM

    from distillens_plugin.data.examples import load_examples
    from distillens_plugin.lens.known_lenses import lens_of
    from distillens_plugin.models.tokenizers import load_tokenizer
    from distillens_plugin.recipe.schema.data import DatasetSpec

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("teacher", help="folder of a causal language model with its tokenizer")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--layers", help="default: five, evenly spaced")
    arguments = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(arguments.teacher, dtype=torch.float32).eval()
    lens = lens_of(model)
    depth = lens.num_layers
    layers = [round(k * depth / 6) for k in range(1, 6)]
    if arguments.layers:
        layers = [int(layer) for layer in arguments.layers.split(",")]
    spec = DatasetSpec(path=str(DATA), num_rows=arguments.rows, template="alpaca")
    examples = load_examples(spec, load_tokenizer(arguments.teacher), where="rows")
    states: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for index in range(len(examples)):
        ids = torch.tensor([examples[index]["input_ids"]])
        found = model(ids, output_hidden_states=True).hidden_states
        for layer in layers:
            states[layer].append(found[layer][0])
    print("layer  largest/median  norm      form        KL, nats a token: mean     at most")
    for layer in layers:
        rows = torch.cat(states[layer])
        ratio = (rows.abs().amax(1) / rows.abs().median(1).values).median().item()
        for norm in ("final", "identity"):
            for name, form in FORMS.items():
                kl = divergence(
                    lens.apply_readout(rows, norm=norm),
                    lens.apply_readout(form(rows), norm=norm),
                    lens.head().weight,
                )
                print(
                    f"{layer:5d}  {ratio:14.0f}  {norm:8s}  {name:10s}  {kl.mean():23.1e}  "
                    f"{kl.max():10.1e}",
                    flush=True,
                )
    return 0


def divergence(computed_ND: Tensor, given_ND: Tensor, weight: Tensor) -> Tensor:
    """[N] KL of the distributions of two states, some rows at a time."""
    parts = []
    for left, right in zip(computed_ND.split(128), given_ND.split(128), strict=True):
        p, q = ((rows @ weight.T).log_softmax(-1) for rows in (left, right))
        parts.append((p.exp() * (p - q)).sum(-1))
    return torch.cat(parts)


if __name__ == "__main__":
    sys.exit(main())
