"""How commands end, as real processes: signals at several moments, and output nobody reads."""

import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from run_process import ENVIRONMENT
from tiny_run import REPO, tiny_recipe

RUN = (sys.executable, "-m", "distillens_plugin.run")
HARNESS = (sys.executable, "-m", "eval_harness")


def start(*command, **options):
    return subprocess.Popen(
        [*map(str, command)],
        stdout=options.pop("stdout", subprocess.DEVNULL),
        stderr=subprocess.PIPE,
        text=True,
        # argparse itself swallows what an unbuffered stream raises.
        env={name: text for name, text in ENVIRONMENT.items() if name != "PYTHONUNBUFFERED"},
        cwd=REPO,
        **options,
    )


def end(process, *numbers, pause_s=0.0):
    """Sends the signals one after the other; returns exit code and standard error."""
    for number in numbers:
        process.send_signal(number)
        time.sleep(pause_s)
    try:
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, said


def wait_for(path, num_lines, process):
    until(lambda: path.exists() and path.read_bytes().count(b"\n") >= num_lines, process)


def until(reached, process):
    """Waits for what a process does; one that takes too long is killed."""
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.communicate()
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"not reached in 120 s: {process.communicate()}")
        time.sleep(0.02)


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """A recipe, and the options that make it go on for minutes."""
    return tiny_recipe(tmp_path_factory.mktemp("ending")), ("--set=train.num_epochs=500",)


@pytest.mark.parametrize(
    ("number", "delay_s"), [(signal.SIGINT, 0.25), (signal.SIGUSR1, 0.6), (signal.SIGINT, 1.5)]
)
@pytest.mark.usefixtures("cold_python")
def test_a_signal_during_import_is_one_line(recipe, tmp_path, number, delay_s):
    path, options = recipe
    process = start(*RUN, path, *options, "--output_dir", tmp_path / "out")
    time.sleep(delay_s)
    code, said = end(process, number)
    assert code == 128 + number
    assert said.count("\n") == 1, said
    assert said.startswith("distillens"), said


@pytest.mark.usefixtures("cold_python")
def test_the_console_script_and_eval_harness_say_one_line_too(tmp_path):
    script = f"import sys; sys.argv = ['distillens', 'run', {str(tmp_path)!r}]\n"
    script += "from distillens_plugin.cli import main; sys.exit(main())"
    commands = [
        (sys.executable, "-c", script),
        (
            *(*HARNESS, "run", "--model", "hf", "--model_args", f"pretrained={tmp_path}"),
            *("--tasks", "gsm8k", "--output_path", tmp_path / "out"),
        ),
    ]
    for command in commands:
        process = start(*command)
        time.sleep(0.3)
        code, said = end(process, signal.SIGINT)
        # A quick refusal of the folder may come first; a traceback may not.
        assert (code, said.count("\n")) in [(130, 1), (2, 1)], said


@pytest.mark.parametrize(
    ("numbers", "pause_s", "words"),
    [
        ([signal.SIGINT] * 12, 0.04, "interrupted"),
        ([signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM], 0.01, "SIGUSR1"),
    ],
)
def test_signals_in_training_end_it_once(recipe, tmp_path, numbers, pause_s, words):
    path, options = recipe
    process = start(*RUN, path, *options, "--output_dir", tmp_path / "out")
    wait_for(tmp_path / "out" / "metrics.jsonl", 4, process)
    code, said = end(process, *numbers, pause_s=pause_s)
    assert code == 128 + numbers[0]
    assert_ends_in_one_line(said, words)


def assert_ends_in_one_line(said, words):
    """After the lines of progress."""
    *before, line, rest = said.split("\n")
    assert rest == ""
    assert words in line
    assert all(text.startswith("step ") or not text for text in before), said


def test_a_process_that_waits_for_others_ends_at_once(recipe, tmp_path):
    """torch waits for them in C, where no handler of Python's is called."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rank = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1"}
    variables = [f"{name}={value}" for name, value in {**rank, "MASTER_PORT": port}.items()]
    process = start("env", *variables, *RUN, recipe[0], "--output_dir", tmp_path / "out")

    def listens():
        with socket.socket() as other:
            return other.connect_ex(("127.0.0.1", port)) == 0

    until(listens, process)
    sent_at = time.monotonic()
    code, said = end(process, signal.SIGTERM)
    assert code == -signal.SIGTERM, said
    # The other process would be waited for ten minutes or more.
    assert time.monotonic() - sent_at < 60


def test_signals_in_generation_end_it_once(small_teacher, tmp_path):
    process = start(
        *(*HARNESS, "run", "--model", "hf", "--model_args", f"pretrained={small_teacher}"),
        *("--tasks", "gsm8k", "--protocol", "greedy", "--gen_kwargs", "max_gen_toks=200"),
        *("--batch_size", "1", "--output_path", tmp_path / "out"),
    )
    until(lambda: list(tmp_path.glob("out/*/answers_*.jsonl")), process)
    wait_for(next(tmp_path.glob("out/*/answers_*.jsonl")), 3, process)
    code, said = end(process, signal.SIGUSR1, signal.SIGUSR1, pause_s=0.05)
    assert code == 138
    *_, line, rest = said.split("\n")
    assert rest == ""
    assert "SIGUSR1" in line
    assert "Traceback" not in said


@pytest.fixture(scope="module")
def small_teacher(recipe):
    return recipe[0].parent / "teacher"


def piped_to_nobody(*command):
    """Exit code and standard error of a command whose reader has gone before it starts."""
    reading, writing = os.pipe()
    os.close(reading)
    process = start(*command, stdout=writing)
    os.close(writing)
    return end(process)


def test_output_that_nobody_reads_ends_a_command_quietly():
    for command in ((*HARNESS, "ls"), (*HARNESS, "run", "--help"), (*RUN, "--help")):
        assert piped_to_nobody(*command) == (141, "")


def test_a_full_disk_under_the_output_is_one_line():
    with open("/dev/full", "w") as full:
        process = start(*HARNESS, "ls", stdout=full)
        code, said = end(process)
    assert code == 1
    assert said.count("\n") == 1
    assert "No space left" in said


def test_a_line_that_nobody_reads_leaves_the_exit_code_as_it_is():
    reading, writing = os.pipe()
    os.close(reading)
    command = [*HARNESS, "ls", "--include_path", "/nowhere"]
    process = subprocess.Popen(command, stdout=writing, stderr=writing, cwd=REPO)
    os.close(writing)
    assert process.wait(timeout=60) == 2
