"""Settings that depend on the benchmarks: rows by index, and what stands before a question."""

from collections.abc import Mapping, Sequence

from eval_harness.benchmarks import Benchmark
from eval_harness.errors import DistillensError
from eval_harness.protocols.protocol import PROTOCOLS, Protocol
from eval_harness.shared.near import near_names
from eval_harness.shared.shortened import shortened


def check_samples(samples: object, benchmarks: Sequence[Benchmark], limit: float | None) -> None:
    """Refuses anything but rows of these benchmarks by their indices.

    Args:
        samples: task -> a list of indices; None: not given.
    Raises:
        DistillensError: names the task and what was found.
    """
    if samples is None:
        return
    if not isinstance(samples, Mapping):
        raise DistillensError(
            f"--samples {shortened(repr(samples))}: expected rows by task, as in "
            '{"gsm8k": [0, 1]}'
        )
    if limit is not None:
        raise DistillensError("--samples and --limit both choose rows; give only one of them")
    tasks = [benchmark.task for benchmark in benchmarks]
    for task, indices in samples.items():
        if task not in tasks:
            raise DistillensError(
                f"--samples {task}: not a task of this run, expected {', '.join(tasks)}"
                f"{near_names(str(task), tasks)}"
            )
        is_list = isinstance(indices, Sequence) and not isinstance(indices, str)
        if not is_list or not indices or not all(_is_index(index) for index in indices):
            raise DistillensError(
                f"--samples {task} = {shortened(repr(indices))}, expected a list of row numbers "
                "from 0"
            )
        if len(set(indices)) < len(indices):
            raise DistillensError(f"--samples {task}: a row is named twice; name each row once")


def check_server(
    backend: str, name: str, protocol: Protocol, model_args: Mapping[str, object]
) -> None:
    """Refuses a protocol that sets what only a backend with the weights at hand can do.

    Args:
        name: of the protocol; `protocol` is it with the user's changes.
    Raises:
        DistillensError: names what a server cannot do, and what to do instead.
    """
    if backend != "server":
        return
    named, cannot, instead = PROTOCOLS[name], [], []
    if named.dtype is not None and "dtype" not in model_args:
        cannot.append(f"choose the type of its weights (dtype {named.dtype})")
        instead.append("--model_args dtype=auto")
    if named.no_repeat_ngram_size and protocol.no_repeat_ngram_size:
        cannot.append(f"forbid repeats (no_repeat_ngram_size {protocol.no_repeat_ngram_size})")
        instead.append("--gen_kwargs no_repeat_ngram_size=0")
    if cannot:
        raise DistillensError(
            f"--protocol {name} with --model server: a server cannot {' or '.join(cannot)}, as the "
            f"protocol asks; use --model vllm or hf, or do without: {' '.join(instead)}"
        )


def check_context(
    benchmarks: Sequence[Benchmark],
    protocol: Protocol,
    template: str | None,
    fewshot_as_multiturn: bool | None,
) -> None:
    """Refuses a system message or examples where a benchmark or its template has no place for them.

    Args:
        template: the user's; None: the benchmark's, else the protocol's.
    Raises:
        DistillensError: names the benchmark and what it lacks.
    """
    if protocol.system_instruction is not None and not protocol.system_instruction.strip():
        raise DistillensError("--system_instruction is empty; drop it")
    if fewshot_as_multiturn is not None and not protocol.num_fewshot:
        raise DistillensError("--fewshot_as_multiturn without examples; give --num_fewshot N")
    for benchmark in benchmarks:
        used = template or benchmark.template or protocol.template
        turns = {
            "--system_instruction": protocol.system_instruction is not None,
            "--fewshot_as_multiturn": fewshot_as_multiturn is True,
        }
        for flag, is_given in turns.items():
            if is_given and used != "chat":
                raise DistillensError(
                    f"{flag}: {benchmark.task} is asked with the template {used!r}, which has no "
                    "turns; give --apply_chat_template, or drop the flag"
                )
        found = len(benchmark.fewshot)
        if protocol.num_fewshot > found:
            raise DistillensError(
                f"--num_fewshot {protocol.num_fewshot}: {benchmark.task} has "
                f"{found or 'no'} fewshot rows; add them to {benchmark.source} as fewshot:, or "
                + (f"lower --num_fewshot to {found}" if found else "drop --num_fewshot")
            )


def _is_index(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
