"""The lens forward and backward against its four matrix products, and against other code.

Everything in one process on the same random inputs in bfloat16, the compared calls on several sets
of inputs in turn, so that no cache holds them. The floor is the four products that any exact method
must do: the logits of both models and the gradients of rows and weight. `over_floor` is a time over
that of the products with columns up to a multiple of 64, which is what tensor cores want.

    --tune      also our lens in other shapes of the kernel and other chunks

Legend: R rows, D width, V vocabulary.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from fast_exact import agreement
from fast_kernel import compiled_pass, through_kernel, tuned
from fast_others import COMPILED, OTHERS
from fast_problem import Problem, clear, floor, fused, timed
from records import Fields, Record
from stage import Call, call_and_arguments

Method = Callable[[Problem], object]

# GPT-2 120M from 1.5B, Qwen2.5 1.5B from 3B: vocabulary, both widths.
MODELS = {"gpt2": (50257, 768, 1600), "qwen2.5": (151936, 1536, 2048)}
ALIGNED = 64
SETS = 2
# Compiling is slow, so it is for one size.
COMPILED_ROWS = 16384
AGREEMENT_ROWS = 256


def sizes(call: Call) -> Iterator[tuple[str, int, int]]:
    """Model, rows, and what the vocabulary is a multiple of; what matters most comes first.

    The time may be up before the last. GPT-2's vocabulary is there twice: the walk aligns columns
    by itself, and other code is slowed down by those of 50,257.
    """
    for rows in (4096, COMPILED_ROWS, 1024, 32768) if not call.tiny else (COMPILED_ROWS,):
        yield "gpt2", rows, 1
        if rows == COMPILED_ROWS:
            yield "gpt2", rows, ALIGNED
        yield "qwen2.5", rows, 1


def problems(call: Call, name: str, rows: int, multiple: int = 1) -> list[Problem]:
    """Of this vocabulary, up to the next multiple."""
    vocab, student, teacher = MODELS[name] if not call.tiny else (997, 32, 48)
    vocab = -(-vocab // multiple) * multiple
    return [
        Problem(call.device, 64 if call.tiny else rows, vocab, student, teacher, seed=seed)
        for seed in range(SETS)
    ]


def compared(record: Record, where: str, made: list[Problem], methods: dict[str, Method]) -> None:
    """The methods on the same inputs, each beside the floor."""
    base = floors(record, where, made)
    mine: float | None = None
    for name, method in methods.items():

        def one(name: str = name, method: Method = method, mine: float | None = mine) -> Fields:
            if name == COMPILED:
                # What it compiled for another size would make it compile for any size, and slower.
                torch.compiler.reset()
            run = partial(timed, made, method)
            fields = through_kernel(record.device, run) if name == "ours" else run()
            fields["over_floor"] = fields["ms"] / base
            if mine is not None:
                fields["over_ours"] = fields["ms"] / mine
            return fields

        fields = record.run(f"{where}: {name}", one)
        if name == "ours" and fields is not None and fields.get("ok", True):
            mine = fields["ms"]
        clear(made)


def floors(record: Record, where: str, made: list[Problem]) -> float:
    """The products on the weights as they are, and with aligned columns; the latter's ms."""

    def one(problems: list[Problem]) -> Fields:
        fields = timed(problems, floor)
        fields["tflops"] = problems[0].flops / fields["ms"] / 1e9
        return fields

    found = record.run(f"{where}: floor", partial(one, made))
    if made[0].vocab % ALIGNED != 0:
        aligned = [problem.aligned(ALIGNED) for problem in made]
        case = f"{where}: floor, a multiple of {ALIGNED} ids"
        found = record.run(case, partial(one, aligned))
    return float("nan") if found is None else found["ms"]


def where_of(name: str, made: list[Problem]) -> str:
    """For a case's name."""
    return f"{name} {made[0].vocab} ids {made[0].rows} rows"


def add_tune(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tune", action="store_true", help="also other shapes and chunks of ours")


def main() -> int:
    call, given = call_and_arguments(__doc__ or "", add_tune)
    record = call.record("fast")
    agreement(record, problems(call, "gpt2", AGREEMENT_ROWS)[0])
    for name, rows, multiple in sizes(call):
        methods: dict[str, Method] = {"ours": fused, **OTHERS}
        if rows != COMPILED_ROWS:
            del methods[COMPILED]
        made = problems(call, name, rows, multiple)
        compared(record, where_of(name, made), made, methods)
    for name in MODELS:
        made = problems(call, name, COMPILED_ROWS)
        compiled_pass(record, where_of(name, made), made)
        if given.tune:
            tuned(record, where_of(name, made), made)
    record.finish()
    # A slow or missing competitor is no failure; ours is.
    return int(any(": ours" in case for case in record.failed))


if __name__ == "__main__":
    torch.set_float32_matmul_precision("highest")
    sys.exit(main())
