"""Evaluations under real launchers: the answers of one process, whatever happens to the others."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from eval_harness import evaluate, load_results

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
ACCELERATE = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes=2")
SAMPLED = ("temperature=1.0", {"temperature": 1.0})
GREEDY = ("temperature=0", {"temperature": 0})
TOKENS, SEEDS = 48, (1, 2)


def command(launcher, model, benchmark, out, sampling, *more) -> list[str]:
    return [
        *(sys.executable, *launcher, "-m", "eval_harness", "run", "--model", "hf"),
        *("--model_args", f"pretrained={model},dtype=float32"),
        *("--tasks", "small", "--include_path", str(benchmark), "--output_path", str(out)),
        *("--gen_kwargs", f"max_gen_toks={TOKENS},{sampling}", "--batch_size", "4"),
        *("--seed", ",".join(map(str, SEEDS)), "--loglikelihood", *more),
    ]


def alone(model, benchmark, out, sampling):
    """The same evaluation in this process."""
    return evaluate(
        model,
        "small",
        output_path=out,
        model_args={"dtype": "float32"},
        include_path=benchmark,
        gen_kwargs={"max_gen_toks": TOKENS, **sampling},
        seeds=SEEDS if sampling["temperature"] else SEEDS[:1],
        batch_size=4,
        device="cpu",
        loglikelihood=True,
    )


def lines_of(out: Path, kind: str) -> list[bytes]:
    """Of a store that no other process has a part of."""
    (file,) = out.glob(f"*/{kind}_small_*.jsonl")
    return sorted(file.read_bytes().splitlines())


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "ACCELERATE_USE_CPU": "true", **more}


@contextlib.contextmanager
def started(arguments, cwd):
    """A launcher; its processes, which are in sessions of their own, end with it."""
    with subprocess.Popen(
        arguments,
        env=environment(),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as launcher:
        try:
            yield launcher
        finally:
            if launcher.poll() is None:
                workers = psutil.Process(launcher.pid).children(recursive=True)
                for process in [*workers, launcher]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()


def process_of_rank(launcher, rank: int) -> psutil.Process:
    for process in psutil.Process(launcher.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.environ().get("RANK") == str(rank):
                return process
    raise AssertionError(f"no process of rank {rank}")


def wait_for_rows(launcher, out: Path, pattern: str, num_rows: int) -> None:
    deadline = time.monotonic() + 120
    while True:
        found = list(out.glob(f"*/{pattern}"))
        if found and found[0].read_bytes().count(b"\n") > num_rows:
            return
        assert launcher.poll() is None, launcher.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.usefixtures("cold_python")  # a rank is found by its environment in /proc
def test_from_one_process_to_two_of_which_one_is_killed_and_back(
    small_llama, small_benchmark, tmp_path, capfd
):
    typed, sampling = SAMPLED
    whole = alone(small_llama, small_benchmark, tmp_path / "whole", sampling)
    answers = lines_of(tmp_path / "whole", "answers")
    # One process began, and was killed while it wrote a row.
    out = tmp_path / "out"
    (store,) = (tmp_path / "whole").glob("*/answers_small_*.jsonl")
    (out / store.parent.name).mkdir(parents=True)
    begun = store.read_bytes().splitlines(keepends=True)[:11]
    (out / store.parent.name / store.name).write_bytes(b"".join(begun) + b'{"key": ["4')
    # Two went on, and one of them was killed.
    arguments = command(TORCHRUN, small_llama, small_benchmark, out, typed)
    with started(arguments, tmp_path) as launcher:
        wait_for_rows(launcher, out, "answers_*.rank1.jsonl", 4)
        process_of_rank(launcher, 1).kill()
        _, stderr = launcher.communicate(timeout=60)
    assert launcher.returncode == 1, stderr
    assert "eval-harness: small: 10 answers are there already" in stderr
    stores = list(out.glob("*/answers_small_*.jsonl"))
    assert len(stores) == 2, "it was killed too late"
    kept = {
        line
        for file in stores
        for line in file.read_bytes().splitlines(keepends=True)[1:]
        if line.endswith(b"\n")
    }
    assert len(kept) >= 14  # the 10, and the 4 of rank 1 that were waited for
    # One ends it: with all that was stored, and the rest as if nothing had happened.
    capfd.readouterr()
    results = alone(small_llama, small_benchmark, out, sampling)
    assert f"small: {len(kept)} answers are there already" in capfd.readouterr().err
    assert lines_of(out, "answers") == answers
    assert lines_of(out, "likelihoods") == lines_of(tmp_path / "whole", "likelihoods")
    assert results.tasks["small"].metrics == whole.tasks["small"].metrics


def test_accelerate_launch_gives_the_answers_and_the_one_file_of_one_process(
    small_llama, small_benchmark, tmp_path
):
    typed, sampling = GREEDY
    whole = alone(small_llama, small_benchmark, tmp_path / "whole", sampling)
    out = tmp_path / "out"
    arguments = command(ACCELERATE, small_llama, small_benchmark, out, typed, "--seed", "1")
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=200, env=environment(), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    for kind in ("answers", "likelihoods"):
        assert lines_of(out, kind) == lines_of(tmp_path / "whole", kind)
    results = load_results(out)
    assert results.tasks["small"].metrics == whole.tasks["small"].metrics
    assert len(list(out.glob("*/results_*.json"))) == 1
    assert not list(out.glob("*/*.rank*"))
    assert not list(out.glob("*/.lock"))
    # One process speaks for both.
    assert done.stdout.count("rougeL") == 1
    said = [line for line in done.stderr.splitlines() if line.startswith("eval-harness: ")]
    assert len(said) == len(set(said))
    assert f"eval-harness: {len(results.tasks['small'].samples)} answers, " in done.stderr


def test_bad_input_is_one_line_and_all_processes_end_with_2(small_llama, small_benchmark, tmp_path):
    arguments = command(TORCHRUN, small_llama, small_benchmark, tmp_path / "out", SAMPLED[0])
    done = subprocess.run(
        [*arguments, "--model_args", f"pretrained={small_llama},dtype=int3"],
        capture_output=True,
        text=True,
        timeout=200,
        env=environment(),
        cwd=tmp_path,
    )
    assert done.returncode == 1  # torchrun's own
    said = [line for line in done.stderr.splitlines() if line.startswith("eval-harness")]
    assert len(said) == 1, done.stderr
    assert "dtype = 'int3', expected auto" in said[0]
    assert done.stderr.count("exitcode  : 2 ") == 2, done.stderr
    assert not (tmp_path / "out").exists()
