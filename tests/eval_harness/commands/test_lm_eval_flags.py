"""Flags as lm-eval's users type them: each works, or is refused in one line."""

import argparse
import json

import pytest

from eval_harness.cli import main
from eval_harness.commands.flags.config_file import read_config
from eval_harness.commands.flags.refused import REFUSED
from eval_harness.commands.flags.run_flags import DEFAULTS, add_run_flags
from eval_harness.commands.flags.run_settings import all_flags, settings_of
from eval_harness.errors import DistillensError
from eval_harness.shared.program.command import OneLineParser

LEAST = ("--output_path", "out", "--tasks", "gsm8k")


def flags(*given: str) -> argparse.Namespace:
    parser = OneLineParser()
    add_run_flags(parser)
    return all_flags(parser.parse_args(given))


def settings(*given: str):
    (only,) = settings_of(flags("--output_path", "out", *given))
    return only


def one_line(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    try:
        code = main(argv)
    except SystemExit as end:
        code = end.code
    error = capsys.readouterr().err
    assert (code, error.count("\n")) == (2, 1), error
    return error


def test_every_flag_of_lm_eval_works_or_is_refused():
    run = pytest.importorskip("lm_eval._cli.run", reason="lm-eval is not installed")
    theirs = argparse.ArgumentParser()
    run.Run(theirs.add_subparsers())
    (group,) = [action for action in theirs._actions if action.dest == "==SUPPRESS=="]
    ours = OneLineParser()
    add_run_flags(ours)
    for action in group.choices["run"]._actions:
        for option in action.option_strings:
            assert option in ours._option_string_actions, option
            assert ours._option_string_actions[option].dest == action.dest, option


@pytest.mark.parametrize("flag", sorted(REFUSED))
def test_a_flag_that_does_not_apply_says_what_to_use(flag, capsys, tmp_path):
    error = one_line(capsys, "run", *LEAST, f"--{flag}", "a=b")
    assert f"--{flag}" in error
    assert REFUSED[flag][1] in error
    file = tmp_path / "flags.yaml"
    file.write_text(f"{flag}: x\n")
    assert REFUSED[flag][1] in one_line(capsys, "run", *LEAST, "--config", str(file))
    # What does not ask for anything is no reason to stop.
    file.write_text(f"{flag}: null\n")
    assert read_config(str(file)) == {}


@pytest.mark.parametrize("tasks", [["gsm8k", "dolly"], ["gsm8k,dolly"], ["gsm8k,", "dolly"]])
def test_tasks_are_separated_by_spaces_or_commas(tasks):
    assert [item.task for item in settings("--tasks", *tasks).benchmarks] == ["gsm8k", "dolly"]


def test_a_pattern_stands_for_the_tasks_that_match(capsys):
    found = settings("--tasks", "*inst", "gsm*").benchmarks
    assert [item.task for item in found] == ["self_inst", "sinst", "uinst", "gsm8k"]
    assert "--tasks x*: no such benchmark" in one_line(capsys, *LEAST[:2], "--tasks", "x*")


@pytest.mark.parametrize(
    "given",
    [
        ["pretrained=0010", "revision=1234567", "max_length=99"],
        ["pretrained=0010,revision=1234567", "max_length=99"],
        ['{"pretrained": "0010", "revision": "1234567", "max_length": 99}'],
    ],
)
def test_model_args_are_pairs_or_json_and_names_stay_text(given):
    expected = {"pretrained": "0010", "revision": "1234567", "max_length": 99}
    assert settings("--tasks", "gsm8k", "--model_args", *given).model_args == expected


def test_a_number_for_a_name_is_refused_where_types_are_written():
    with pytest.raises(DistillensError, match=r"revision = 1234567 is int.*in quotes"):
        settings("--tasks", "gsm8k", "--model_args", '{"revision": 1234567}')


def test_of_a_flag_given_twice_the_later_values_count():
    twice = ("--model_args", "dtype=a", "max_length=3", "--model_args", "dtype=b")
    assert settings("--tasks", "gsm8k", *twice).model_args == {"dtype": "b", "max_length": 3}
    with pytest.raises(DistillensError, match="dtype: given twice"):
        settings("--tasks", "gsm8k", "--model_args", "dtype=a", "dtype=b")


@pytest.mark.parametrize("empty", ["", " "])
@pytest.mark.parametrize("command", [("run", "--tasks", "gsm8k"), ("report", "nothing")])
def test_an_empty_output_path_is_not_the_current_folder(
    command, empty, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    error = one_line(capsys, *command, "--output_path", empty)
    assert f"--output_path = {empty!r} is empty, expected a folder" in error
    with pytest.raises(DistillensError, match="--systems one: output_path = '' is empty"):
        settings("--tasks", "gsm8k", "--systems", '{"pretrained": "one", "output_path": ""}')
    assert not list(tmp_path.iterdir())


def test_what_a_server_cannot_do_of_a_protocol_is_said_with_what_to_do(capsys):
    asked = (*LEAST, "--model", "server", "--model_args", "base_url=http://x/v1,pretrained=m")
    error = one_line(capsys, *asked, "--protocol", "minillm")
    assert "--protocol minillm with --model server: a server cannot choose the type" in error
    assert "(dtype float16) or forbid repeats (no_repeat_ngram_size 6)" in error
    instead = ("--model_args", "dtype=auto", "--gen_kwargs", "no_repeat_ngram_size=0")
    assert " ".join(instead) in error
    (found,) = settings_of(flags(*asked, "--protocol", "minillm", *instead))
    assert found.model_args["dtype"] == "auto"
    # The protocol asks for no type then, and the rule is the user's: the backend refuses it.
    assert settings_of(flags(*asked, "--gen_kwargs", "no_repeat_ngram_size=6"))


def test_run_is_implied_and_ls_takes_what_to_list(capsys):
    error = one_line(capsys, "--tasks", "gsm8x", "--output_path", "out")
    assert error.startswith("eval-harness run: --tasks gsm8x")
    assert main(["ls", "tasks"]) == 0
    listed = capsys.readouterr().out
    assert "gsm8k" in listed
    assert "Protocols" not in listed
    assert "not grouped" in one_line(capsys, "ls", "groups")
    assert "did you mean 'tasks'" in one_line(capsys, "ls", "task")


def test_a_file_of_flags_is_read_and_the_command_line_wins(tmp_path):
    file = tmp_path / "flags.yaml"
    file.write_text(
        "model: hf\ntasks: [gsm8k, dolly]\noutput_path: out\nseed: [1, 2]\nlimit: 3\n"
        "model_args: {pretrained: '0010', max_length: 99}\ngen_kwargs: temperature=0.5\n"
        "log_samples: false\nbatch_size: 4\ndata: {gsm8k: rows.jsonl}\nuse_cache: null\n"
    )
    read = flags("--config", str(file))
    assert (read.model, read.tasks, read.limit, read.seed) == ("hf", ["gsm8k", "dolly"], "3", "1,2")
    assert (read.log_samples, read.batch_size, read.data) == (False, "4", ["gsm8k=rows.jsonl"])
    won = settings(
        *("--config", str(file), "--tasks", "gsm8k", "--data", f"gsm8k={_row(tmp_path)}"),
        *("--limit", "5", "--log_samples", "--model_args", "pretrained=b"),
    )
    assert [item.task for item in won.benchmarks] == ["gsm8k"]
    assert (won.limit, won.log_samples, won.model_args) == (
        5,
        True,
        {"pretrained": "b", "batch_size": 4},
    )
    assert won.protocol.temperature == 0.5


def _row(folder):
    file = folder / "rows.jsonl"
    file.write_text(json.dumps({"instruction": "a", "output": "b"}) + "\n")
    return file


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("taks: gsm8k", "'taks' is not a flag.*did you mean 'tasks'"),
        ("model_args: {pretrained: 0010}", "pretrained = 10 is int.*in quotes"),
        ("output_path: 0010", "output_path = 10 is int, expected a text; write it in quotes"),
        ("write_out: 'yes'", "write_out = 'yes' is str, expected true or false"),
        ("max_prompt_tokens: 0", "max_prompt_tokens = 0 is int, expected an integer from 1"),
        ("limit: true", "limit = True is bool, expected a number or a text"),
        ("model_args: 3", "model_args = 3 is int"),
        ("tasks: [gsm8k, 3]", "tasks = 3 is int, expected a text"),
        ("- a", "expected a mapping"),
    ],
)
def test_a_wrong_file_of_flags_is_refused_by_key(tmp_path, text, words):
    file = tmp_path / "flags.yaml"
    file.write_text(f"{text}\n")
    with pytest.raises(DistillensError, match=words):
        flags(*LEAST, "--config", str(file))


def test_every_flag_can_stand_in_the_file():
    parser = OneLineParser()
    add_run_flags(parser)
    known = {action.dest for action in parser._actions} - {"help", "config", *REFUSED}
    assert known == set(DEFAULTS)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["--samples", '{"gsm8x": [1]}'], "gsm8x: not a task of this run.*did you mean 'gsm8k'"),
        (["--samples", '{"gsm8k": [1]}', "--limit", "2"], "--samples and --limit"),
        (["--samples", '{"gsm8k": [1, 1]}'], "named twice"),
        (["--samples", '{"gsm8k": [-1]}'], "expected a list of row numbers"),
        (["--samples", '{"gsm8k": []}'], "expected a list of row numbers"),
        (["--samples", '{"gsm8k": [1'], "not JSON"),
        (["--samples", "nowhere.json"], "nowhere.json: cannot be read"),
        (["--system_instruction", "Be brief."], "alpaca.*--apply_chat_template"),
        (["--system_instruction", " ", "--template", "chat"], "--system_instruction is empty"),
        (["--num_fewshot", "2"], "gsm8k has no fewshot rows"),
        (["--fewshot_as_multiturn"], "give --num_fewshot"),
        (["--apply_chat_template", "tool_use"], "tool_use: no name of a template is taken"),
        (["--apply_chat_template", "--template", "qwen"], "give only one"),
        (["--batch_size", "auto:4"], "expected an integer or auto"),
        (["--seed", "None"], "expected integers"),
    ],
)
def test_what_cannot_apply_is_refused(given, words):
    with pytest.raises(DistillensError, match=words):
        settings("--tasks", "gsm8k", *given)
