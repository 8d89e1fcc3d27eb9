"""Wall time of evaluating six small students: a call for each, and one call for all.

    python benchmarks/systems.py [--rows 8] [--backends hf vllm]

The students are random Llamas of one shape with the quickstart's tokenizer; each answers the same
GSM8K questions greedily. Every call is a process of its own, as a user starts it. The second number
is what `eval-harness run --systems` takes for all of them, and both write the same answers. vllm is
measured by the Python that runs this script, where it is usable.
"""

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
NUM_STUDENTS = 6
# A CPU's vLLM needs a size for its KV cache.
ARGUMENTS = {
    "hf": "dtype=float32",
    "vllm": "dtype=float32,enforce_eager=true,kv_cache_memory_bytes=67108864",
}


def save_students(folder: Path) -> list[str]:
    """Students whose weights differ, of about 7 million parameters."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(REPO / "recipes/quickstart/tokenizer")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=8,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    names = [f"student_{seed}" for seed in range(NUM_STUDENTS)]
    for seed, name in enumerate(names):
        torch.manual_seed(seed)
        LlamaForCausalLM(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return names


def seconds(folder: Path, *arguments: str) -> float:
    """Seconds of one call; raises CalledProcessError if it fails."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "eval_harness", "run", *arguments],
        check=True,
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(REPO), "HF_HUB_OFFLINE": "1"},
    )
    return time.perf_counter() - started


def answers(folder: Path) -> dict[str, bytes]:
    """What all students have answered."""
    return {path.name: path.read_bytes() for path in folder.glob("*/answers_*.jsonl")}


def measure(folder: Path, names: list[str], backend: str, num_rows: int) -> None:
    """Prints a backend's line."""
    shared = ["--model", backend, "--tasks", "gsm8k", "--limit", str(num_rows)]
    shared += ["--template", "question", "--protocol", "greedy", "--gen_kwargs", "max_gen_toks=32"]
    common, outs = ARGUMENTS[backend], [f"{backend}_alone", f"{backend}_together"]
    alone = together = 0.0
    for place, name in enumerate(names):
        # In the middle, so that other work on the machine is on both sides of it.
        if place == len(names) // 2:
            several = ["--model_args", common, "--systems", *names, "--output_path", outs[1]]
            together = seconds(folder, *shared, *several)
        single = ["--model_args", f"pretrained={name},{common}", "--output_path", outs[0]]
        alone += seconds(folder, *shared, *single)
    one, other = (answers(folder / out) for out in outs)
    same = "the same answers" if one == other else "OTHER ANSWERS"
    print(
        f"{backend:<5} {len(names)} calls {alone:>6.1f} s   one call {together:>6.1f} s   "
        f"{alone / together:>4.1f} x   {same}",
        flush=True,
    )


def main() -> None:
    """Prints a line for each backend."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--backends", nargs="+", choices=list(ARGUMENTS), default=list(ARGUMENTS))
    args = parser.parse_args()
    import torch

    from eval_harness.backends.vllm_arguments import check_usable
    from eval_harness.errors import DistillensError

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.machine()
    print(f"{device}, torch {torch.__version__}, {os.cpu_count()} CPU cores, {args.rows} rows")
    with tempfile.TemporaryDirectory() as folder:
        names = save_students(Path(folder))
        for backend in args.backends:
            try:
                if backend == "vllm":
                    check_usable()
            except DistillensError as error:
                print(f"vllm  not measured: {error}")
                continue
            measure(Path(folder), names, backend, args.rows)


if __name__ == "__main__":
    main()
