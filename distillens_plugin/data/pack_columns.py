"""What a batch must know about the packs in it: where their rows begin, and what these count."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import torch
from torch import Tensor

from distillens_plugin.data.supervision import IGNORED
from eval_harness.errors import DistillensError


class TokenRow(NamedTuple):
    """The columns of one row, or of one pack, in which `position_ids` restart at each row.

    Attributes:
        input_ids, labels, position_ids: [T] int64.
    """

    input_ids: Tensor
    labels: Tensor
    position_ids: Tensor | None


class PackFacts(TypedDict):
    """What `Targets` holds for a batch of packs."""

    row_ids: list[str]
    num_tokens: int
    row_counts: list[int]


def labels_of_pack(labels_T: Tensor, position_ids_T: Tensor, row_id: str) -> Tensor:
    """The labels without those of first tokens, which the token before, another row's, would get.

    Raises:
        DistillensError: the positions do not begin at 0, or neither rise by 1 nor restart at 0.
    """
    restarts = position_ids_T == 0
    follows = position_ids_T[1:] == position_ids_T[:-1] + 1
    wrong = (~(restarts[1:] | follows)).nonzero().flatten().add(1).tolist()
    if len(restarts) > 0 and not restarts[0]:
        wrong.insert(0, 0)
    if wrong:
        before = "at the beginning" if wrong[0] == 0 else f"after {position_ids_T[wrong[0] - 1]}"
        raise DistillensError(
            f"distillens.collate: row {row_id!r}: position_ids[{wrong[0]}] is "
            f"{position_ids_T[wrong[0]]} {before}, expected 0, 1, 2 ... with 0 again where the "
            "next row of the pack begins"
        )
    return labels_T.masked_fill(restarts, IGNORED)


def pack_facts(
    examples: Sequence[Mapping[str, Any]], rows: Sequence[TokenRow], names: Sequence[str]
) -> PackFacts | None:
    """Ids and supervised positions of the rows in all packs of a batch; None if there is no pack.

    Args:
        examples: as they came; their `row_ids` are those of the rows in a pack.
        rows: their columns.
        names: of the packs; where there are no `row_ids`, also the name of all rows in it.
    Raises:
        DistillensError: packs beside rows, or another number of `row_ids` than of rows in a pack.
    """
    with_positions = [row.position_ids is not None for row in rows]
    if not any(with_positions):
        return None
    if not all(with_positions):
        raise DistillensError(
            f"distillens.collate: row {names[with_positions.index(False)]!r} has no position_ids, "
            f"but row {names[with_positions.index(True)]!r} of the same batch has them; expected "
            "them in all rows or in none"
        )
    facts: PackFacts = {"row_ids": [], "num_tokens": 0, "row_counts": []}
    for example, row, name in zip(examples, rows, names, strict=True):
        assert row.position_ids is not None  # just checked
        number_T = (row.position_ids == 0).cumsum(0) - 1
        num_rows = int(number_T[-1]) + 1 if len(number_T) else 0
        counts = torch.bincount(number_T[row.labels != IGNORED], minlength=num_rows).tolist()
        row_ids = example.get("row_ids")
        if row_ids is None:
            row_ids, counts = [name], [sum(counts)]
        elif len(row_ids) != num_rows:
            raise DistillensError(
                f"distillens.collate: row {name!r} has {len(row_ids)} row_ids, but its "
                f"position_ids begin {num_rows} times; expected as many of each"
            )
        facts["row_ids"] += map(str, row_ids)
        facts["row_counts"] += counts
        facts["num_tokens"] += len(row.input_ids)
    return facts
