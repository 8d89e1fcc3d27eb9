"""Which layer of the student is read against which layer of the teacher.

Layer k is the residual stream after k blocks: 0 is the first block's input, the number of blocks is
the last block's own output (before the final norm, unlike transformers' last `hidden_states`). In
place of a number an entry may be a module path, whose output is read.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from eval_harness.errors import DistillensError

Layer = int | str

# What a choice of K pairs may say; only `auto` must be there.
_CHOICE = {"auto", "by", "rows", "measured"}


def resolve_pairs(
    layers: Mapping[str, Any], student_layers: int, teacher_layers: int, where: str = "layers"
) -> list[tuple[Layer, Layer]]:
    """The (student, teacher) layers of each pair.

    Args:
        layers: `{"student": [...], "teacher": [...]}`, lists of equal length of layer numbers or
            module paths; or `{"auto": K}` for K pairs at equal relative depth (`auto_layers`); or
            `{"auto": K, "by": "divergence", "measured": {"student": [...], "teacher": [...]}}`.
        student_layers, teacher_layers: numbers of blocks.
        where: what error lines start with, such as `recipes/gpt2.yaml: criterion.lens.layers`.
    Raises:
        DistillensError: lists of different length, an entry out of range or of another type, a pair
            given twice, more automatic pairs than there are layers, or pairs by divergence that
            nobody has measured.
    """
    chooses = isinstance(layers, Mapping) and "auto" in layers and set(layers) <= _CHOICE
    if not chooses and (not isinstance(layers, Mapping) or set(layers) != {"student", "teacher"}):
        found = sorted(layers) if isinstance(layers, Mapping) else repr(layers)
        raise DistillensError(
            f"{where}: found {found}, expected either auto: K, or the two lists student and teacher"
        )
    if chooses:
        if layers.get("by") not in (None, "depth", "divergence"):
            raise DistillensError(f"{where}.by = {layers['by']!r}, expected depth or divergence")
        if layers.get("by") != "divergence":
            return _automatic(layers["auto"], student_layers, teacher_layers, where)
        if layers.get("measured") is None:
            raise not_measured(layers["auto"], where)
        layers, where = layers["measured"], f"{where}.measured"
    student = _checked(layers["student"], student_layers, "student", where)
    teacher = _checked(layers["teacher"], teacher_layers, "teacher", where)
    if len(student) != len(teacher):
        raise DistillensError(
            f"{where}: student has {len(student)} layers and teacher {len(teacher)}; the lists are "
            "read as pairs and must have the same length"
        )
    pairs = list(zip(student, teacher, strict=True))
    for index, pair in enumerate(pairs):
        if pair in pairs[:index]:
            raise DistillensError(
                f"{where}: pair {index} (student {pair[0]}, teacher {pair[1]}) repeats pair "
                f"{pairs.index(pair)}; remove it, or raise that pair's weight in pair_weights"
            )
    return pairs


def auto_layers(num_pairs: int, num_layers: int) -> list[int]:
    """Layer round(k L / (K + 1)) for k = 1..K, halves rounded up.

    The paper's lists for every model but Llama 7B, where it has 5 10 16 21 26.
    """
    return [
        (2 * k * num_layers + num_pairs + 1) // (2 * (num_pairs + 1))
        for k in range(1, num_pairs + 1)
    ]


def not_measured(num_pairs: object, where: str) -> DistillensError:
    """The refusal of `by: divergence` where there are no rows to measure on."""
    return DistillensError(
        f"{where}: by: divergence is measured on rows, and there are none here; give what "
        f"distillens_plugin.choose_layers(student, teacher, batches, {num_pairs!r}) returns"
    )


def check_measurable(
    num_pairs: int, student_layers: int, teacher_layers: int, where: str = "layers"
) -> None:
    """Refuses more pairs by divergence than the smaller model has layers for.

    They are taken from 1 to L - 1 of L blocks, as the paper's rule does: layer 0 has seen no other
    token, and the last layer is what the final logits are made of.

    Raises:
        DistillensError: see above.
    """
    for side, num_layers in (("student", student_layers), ("teacher", teacher_layers)):
        if num_pairs > num_layers - 1:
            raise DistillensError(
                f"{where}.auto = {num_pairs} by divergence, but the {side} has {num_layers} "
                f"blocks: expected at most {num_layers - 1} pairs, from its layers 1 to "
                f"{num_layers - 1}"
            )


def pair_shares(weights: Sequence[float] | None, num_pairs: int, where: str) -> list[float]:
    """Each pair's share of a term: `pair_weights` normalised to sum to 1; None weighs all equally.

    Raises:
        DistillensError: not one weight >= 0 per pair, or all zero.
    """
    if weights is None:
        return [1.0 / num_pairs] * num_pairs
    total = sum(weights)
    if len(weights) != num_pairs or min(weights) < 0 or total <= 0:
        raise DistillensError(
            f"{where}: pair_weights = {list(weights)}, expected {num_pairs} weights >= 0 (one per "
            "layer pair), not all zero"
        )
    return [weight / total for weight in weights]


def layer_to_hook(layer: Layer, blocks_path: str) -> tuple[str, str]:
    """Where a forward hook finds a layer: ("input" or "output", module path)."""
    if isinstance(layer, str):
        return "output", layer
    return ("input", f"{blocks_path}.0") if layer == 0 else ("output", f"{blocks_path}.{layer - 1}")


def forward_hook_config(layers: Iterable[Layer], blocks_path: str) -> dict[str, list[str]]:
    """torchdistill's `forward_hook` entry that records these layers.

    Args:
        layers: layer numbers or module paths; repeated ones are hooked once.
        blocks_path: `Anatomy.blocks`.
    Returns:
        `{"input": [...], "output": [...]}`, module paths in the order of the layers.
    """
    hooks: dict[str, list[str]] = {"input": [], "output": []}
    for layer in layers:
        kind, path = layer_to_hook(layer, blocks_path)
        if path not in hooks[kind]:
            hooks[kind].append(path)
    return hooks


def _automatic(
    num_pairs: object, student_layers: int, teacher_layers: int, where: str
) -> list[tuple[Layer, Layer]]:
    if not isinstance(num_pairs, int) or isinstance(num_pairs, bool) or num_pairs < 1:
        raise DistillensError(
            f"{where}.auto = {num_pairs!r}, expected a number of pairs of at least 1"
        )
    for side, num_layers in (("student", student_layers), ("teacher", teacher_layers)):
        if not _distinct(num_pairs, num_layers):
            most = max(k for k in range(1, num_layers + 1) if _distinct(k, num_layers))
            raise DistillensError(
                f"{where}.auto = {num_pairs}, but the {side} has {num_layers} blocks: at most "
                f"{most} pairs fall on different layers"
            )
    return list(
        zip(
            auto_layers(num_pairs, student_layers),
            auto_layers(num_pairs, teacher_layers),
            strict=True,
        )
    )


def _distinct(num_pairs: int, num_layers: int) -> bool:
    return num_pairs <= num_layers and len(set(auto_layers(num_pairs, num_layers))) == num_pairs


def _checked(entries: object, num_layers: int, side: str, where: str) -> list[Layer]:
    if not isinstance(entries, list | tuple) or not entries:
        raise DistillensError(
            f"{where}.{side} = {entries!r}, expected a list of layers such as [2, 4, 6]"
        )
    for index, entry in enumerate(entries):
        place = f"{where}.{side}[{index}] = {entry!r}"
        if isinstance(entry, str) and entry.strip() and not entry.strip().lstrip("-").isdigit():
            continue
        if not isinstance(entry, int) or isinstance(entry, bool):
            raise DistillensError(f"{place}, expected a layer number (unquoted) or a module path")
        if not 0 <= entry <= num_layers:
            raise DistillensError(f"{place}, but the {side} has layers 0 to {num_layers}")
    return list(entries)
