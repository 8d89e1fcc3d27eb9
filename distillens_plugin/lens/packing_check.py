"""Whether a model keeps packed rows apart, found by running it: no table of architectures.

Most models of transformers do. Those that read positions off the attention mask (OPT) or carry a
state from token to token (Mamba) let a row see the one before it, without any error.

Legend: B batch, T tokens, D width.
"""

import torch
from torch import Tensor, nn

from distillens_plugin.data.collate import collate
from distillens_plugin.lens.forward import forward
from distillens_plugin.lens.probe import plain_model, undisturbed
from eval_harness.errors import DistillensError

# Two packs whose rows begin at different places.
_PACKS = ((6, 5), (3, 8))


def check_packing(model: nn.Module, *, role: str, where: str) -> None:
    """Refuses a model in which packed rows see each other or have other positions than alone.

    Two packs of two rows run three times: as packs, with other tokens in the first row of each, and
    row by row. The second rows must not notice the other tokens, and all states of the packs must
    be those of the rows alone, up to rounding.

    Args:
        model: bare, or wrapped by DDP, torch.compile or peft, on the device that trains.
        role: what the recipe calls the model, for the error.
        where: the recipe's key, for the error.
    Raises:
        DistillensError: names the model's class and what it lacks.
    """
    remedy = "set packing: false; batches of rows of similar length hold little padding too"
    name = type(plain_model(model)).__name__
    rows = _rows(model, seed=0)
    changed = [(other[0], row[1]) for row, other in zip(rows, _rows(model, seed=1), strict=True)]
    try:
        with undisturbed(model):
            packed, precision = _states(model, [_pack(pair) for pair in rows])
            beside_others, _ = _states(model, [_pack(pair) for pair in changed])
            alone, _ = _states(model, [_row(row) for pair in rows for row in pair])
    except DistillensError:
        raise
    except Exception as error:  # whatever a model makes of arguments it does not know
        raise DistillensError(
            f"{where}: the {role}, a {name}, does not run on packed rows "
            f"({type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no reason'})"
            f"; {remedy}"
        ) from error
    second = [index for index in range(len(packed)) if index % 2 == 1]
    leak = max(_difference(packed[index], beside_others[index]) for index in second)
    shift = max(_difference(left, right) for left, right in zip(packed, alone, strict=True))
    # Masked tokens count exactly nothing. Rounding differs only where products have other shapes
    # because of them, as in a mixture of experts.
    if not leak <= min(8 * precision, 1e-3):
        raise DistillensError(
            f"{where}: the {role}, a {name}, lets a packed row see the row before it (its states "
            f"change by {100 * leak:.2g} %); {remedy}"
        )
    # Products of other shapes round differently, layer after layer.
    if not shift <= precision**0.5:
        raise DistillensError(
            f"{where}: the {role}, a {name}, does not restart positions with each packed row (its "
            f"states differ by {100 * shift:.2g} % from those of the row alone); {remedy}"
        )


def _rows(model: nn.Module, *, seed: int) -> list[tuple[Tensor, Tensor]]:
    """The rows' token ids, pack by pack."""
    size = plain_model(model).get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.randint(size, (sum(lengths),), generator=generator) for lengths in _PACKS]
    pairs = [ids.split(list(lengths)) for ids, lengths in zip(drawn, _PACKS, strict=True)]
    return [(first, second) for first, second in pairs]


def _row(ids_T: Tensor) -> dict[str, Tensor]:
    return {"input_ids": ids_T, "labels": ids_T}


def _pack(pair: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    positions = torch.cat([torch.arange(len(ids)) for ids in pair])
    return {**_row(torch.cat(pair)), "position_ids": positions}


def _states(model: nn.Module, examples: list[dict[str, Tensor]]) -> tuple[list[Tensor], float]:
    """The final hidden states of each row, [T, D], packed or padded, and the relative precision."""
    batch, _ = collate(examples)
    device = plain_model(model).get_input_embeddings().weight.device  # type: ignore[operator]
    output = forward(model, {key: value.to(device) for key, value in batch.items()})
    hidden_BTD = output.last_hidden.reshape(*batch["input_ids"].shape, -1)
    if "position_ids" not in batch:
        lengths = batch["attention_mask"].sum(1).tolist()
        parts = [[hidden_TD[:n]] for hidden_TD, n in zip(hidden_BTD, lengths, strict=True)]
    else:
        parts = [
            list(hidden_TD[: sum(lengths)].split(list(lengths)))
            for hidden_TD, lengths in zip(hidden_BTD, _PACKS, strict=True)
        ]
    types = {hidden_BTD.dtype, output.autocast_dtype or hidden_BTD.dtype}
    precision = max(torch.finfo(dtype).eps for dtype in types)
    if torch.get_float32_matmul_precision() != "highest":
        precision = max(precision, torch.finfo(torch.float16).eps)  # TF32 keeps as many digits
    return [part_TD for row in parts for part_TD in row], precision


def _difference(left_TD: Tensor, right_TD: Tensor) -> float:
    """Relative to the size of the states; NaN where there is one."""
    left_TD, right_TD = left_TD.float(), right_TD.float()
    return float((left_TD - right_TD).norm() / right_TD.norm().clamp_min(1e-30))
