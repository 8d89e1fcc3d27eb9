"""The lens forward and backward against its four matrix products, and against other code.

Everything in one process on the same random inputs in bfloat16, the compared calls on several sets
of inputs in turn, so that no cache holds them. The floor is the four products that any exact method
must do: the logits of both models and the gradients of rows and weight.

Legend: R rows, D width, V vocabulary.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from clock import measure
from fast_others import OTHERS
from fast_problem import FLOOR_ROWS, Problem, floor, fused
from records import Fields, Record
from stage import Call, call_of

from distillens_plugin.fused import triton_segment

# GPT-2 120M from 1.5B, Qwen2.5 1.5B from 3B: vocabulary, both widths.
MODELS = {"gpt2": (50257, 768, 1600), "qwen2.5": (151936, 1536, 2048)}
# What matters most comes first: the time may be up before the last.
ROWS = (4096, 16384, 1024, 32768)
SETS = 2
# Compiling is slow, so it comes after everything else, and at one size.
COMPILED_ROWS = 16384
CHUNKS = (1024, 2048, 4096, 8192)
# Of the Triton kernel: columns at a time, and warps.
SHAPES = ((1024, 8), (2048, 8), (2048, 16), (4096, 16), (4096, 32), (8192, 16), (8192, 32))


def problems(call: Call, name: str, rows: int, multiple: int = 1) -> list[Problem]:
    """Of this vocabulary, up to the next multiple."""
    vocab, student, teacher = MODELS[name] if not call.tiny else (997, 32, 48)
    vocab = -(-vocab // multiple) * multiple
    return [
        Problem(call.device, 64 if call.tiny else rows, vocab, student, teacher, seed=seed)
        for seed in range(SETS)
    ]


def compared(
    record: Record, name: str, made: list[Problem], methods: dict[str, Callable[[Problem], object]]
) -> None:
    """The methods on the same inputs, each beside the floor."""
    where = f"{name} {made[0].rows} rows"

    def calls(method: Callable[[Problem], object]) -> list[Callable[[], object]]:
        return [partial(method, problem) for problem in made]

    found = record.run(f"{where}: floor", lambda: floor_fields(record, made, calls(floor)))
    base = found["ms"] if found is not None else float("nan")
    mine: float | None = None
    for method_name, method in methods.items():

        def one(method: Callable[[Problem], object] = method, mine: float | None = mine) -> Fields:
            fields = measure(calls(method), record.device)
            fields["over_floor"] = fields["ms"] / base
            if mine is not None:
                fields["over_ours"] = fields["ms"] / mine
            return fields

        fields = record.run(f"{where}: {method_name}", one)
        if method_name == "ours" and fields is not None:
            mine = fields["ms"]
        for problem in made:
            problem.clear()


def floor_fields(record: Record, made: list[Problem], calls: list[Callable[[], object]]) -> Fields:
    fields = measure(calls, record.device)
    fields["tflops"] = made[0].flops / fields["ms"] / 1e9
    return fields


def agreement(record: Record, problem: Problem) -> None:
    """A comparison of times means something only where all compute the same loss."""

    def check() -> Fields:
        values = {"ours": float(fused(problem))}
        for name, method in OTHERS.items():
            if "compiled" not in name:
                try:
                    values[name] = float(method(problem))  # type: ignore[arg-type]
                except Exception as error:  # its own case says why
                    values[name] = float("nan")
                    print(name, error)
        spread = max(abs(v / values["ours"] - 1) for v in values.values() if v == v)
        return {"ok": spread < 0.02, "spread": spread, "values": values}

    record.run("the methods' losses agree", check)
    problem.clear()


def sizes(call: Call) -> Iterator[tuple[str, int]]:
    for rows in ROWS[:1] if call.tiny else ROWS:
        for name in MODELS:
            yield name, rows


def elementwise(record: Record, name: str, made: list[Problem]) -> None:
    """The compiled pass in the kernel's place, and the kernel in several shapes."""
    where, calls = f"{name} {made[0].rows} rows", [partial(fused, problem) for problem in made]
    chosen = triton_segment.BLOCK, triton_segment.NUM_WARPS
    before = triton_segment.launches()
    time = partial(measure, calls, record.device, most=5)
    try:
        for shape in SHAPES:
            triton_segment.BLOCK, triton_segment.NUM_WARPS = shape
            record.run(f"{where}: ours, blocks of {shape[0]} by {shape[1]} warps", time)
        triton_segment.BLOCK, triton_segment.NUM_WARPS = chosen
        if record.device.type == "cuda":
            record.run(f"{where}: the kernel runs", partial(launched, before))
        triton_segment.ENABLED = False
        record.run(f"{where}: ours, compiled pass", time)
    finally:
        triton_segment.BLOCK, triton_segment.NUM_WARPS = chosen
        triton_segment.ENABLED = True


def launched(before: int) -> Fields:
    launches = triton_segment.launches() - before
    return {"ok": launches > 0, "launches": launches}


def main() -> int:
    call = call_of(__doc__ or "")
    record = call.record("fast")
    agreement(record, problems(call, "gpt2", 1024)[0])
    eager = {name: method for name, method in OTHERS.items() if "compiled" not in name}
    for name, rows in sizes(call):
        compared(record, name, problems(call, name, rows), {"ours": fused, **eager})
    for name in MODELS:
        made = problems(call, name, COMPILED_ROWS)
        elementwise(record, name, made)
        for chunk in CHUNKS:
            method = partial(fused, chunk_rows=chunk)
            calls = [partial(method, problem) for problem in made]
            case = f"{name} {made[0].rows} rows: ours, chunks of {chunk}"
            record.run(case, partial(measure, calls, call.device, most=5))
        for chunk in FLOOR_ROWS:
            products = [partial(floor, problem, chunk_rows=chunk) for problem in made]
            case = f"{name} {made[0].rows} rows: floor, chunks of {chunk}"
            record.run(case, partial(measure, products, call.device, most=5))
        aligned = [partial(floor, problem) for problem in problems(call, name, COMPILED_ROWS, 64)]
        case = f"{name} {made[0].rows} rows: floor, a multiple of 64 ids"
        record.run(case, partial(measure, aligned, call.device, most=5))
    for name in MODELS:
        made = problems(call, name, COMPILED_ROWS)
        late = {name: method for name, method in OTHERS.items() if "compiled" in name}
        compared(record, f"{name} again", made, {"ours": fused, **late})
    record.finish()
    # A slow or missing competitor is no failure; ours is.
    return int(not all(c["ok"] for c in record.cases if c["case"].endswith(": ours")))


if __name__ == "__main__":
    torch.set_float32_matmul_precision("highest")
    sys.exit(main())
