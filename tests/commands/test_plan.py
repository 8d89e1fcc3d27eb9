"""`distillens plan`: a table or JSON from configs alone, without torch; bad input ends with 2."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from recipe_text import write_recipe

from distillens_plugin.cli import main

REPO = Path(__file__).resolve().parents[2]
CONFIGS = REPO / "tests" / "configs"
MODELS = (
    "--set",
    f"models.teacher_model.name_or_path={CONFIGS / 'teacher-gpt2-1.5B'}",
    "--set",
    f"models.student_model.name_or_path={CONFIGS / 'gpt2'}",
)
GPT2 = (str(REPO / "recipes" / "gpt2.yaml"), *MODELS)


def plan(capsys, *arguments):
    code = main(["plan", *arguments])
    return code, *capsys.readouterr()


def test_the_table_has_every_sharding_and_the_time(capsys):
    code, text, _ = plan(
        capsys,
        *GPT2,
        *("--devices", "4", "--nodes", "2", "--memory", "24GB"),
        *("--rows", "11435", "--row_tokens", "200", "--tflops", "400", "--mfu", "0.3"),
    )
    assert code == 0
    lines = text.splitlines()
    assert "2 x 4 device(s) of 24.0 GB, of which 2.0 are kept free (cuda)" in lines[0]
    assert "124.4 M parameters" in lines[1]
    assert "1,557.6 M parameters" in lines[2]
    (head,) = [line for line in lines if line.startswith("sharding")]
    columns = "teacher weights gradients optimiser activations logits teacher peak fits"
    assert head.split() == ["sharding", *columns.split()]
    for sharding in ("one device", "ddp", "zero2", "fsdp2", "hsdp"):
        assert any(line.startswith(f"{sharding} ") for line in lines)
    assert "228,700 rows" in lines[-1]
    assert "at 400 TFLOP/s a device, 30% of it" in lines[-1]
    assert "tensor_parallel_size=1" in text


def test_json_has_the_numbers_of_the_table(capsys):
    given = (*GPT2, "--memory", "6GB", "--devices", "8")
    _, text, _ = plan(capsys, *given)
    code, written, _ = plan(capsys, *given, "--json")
    found = json.loads(written)
    assert code == 0
    assert found["models"]["student"]["parameters"] == 124_439_808
    for choice in found["choices"]:
        begins = re.compile(rf"{choice['sharding']} +{choice['teacher']} ")
        (line,) = filter(begins.match, text.splitlines())
        peak = choice["bytes"]["peak"]
        assert f"{peak / 1e9:.1f}" in line.split()
        assert choice["fits"] == (peak <= 4e9)
        assert line.endswith("yes" if choice["fits"] else choice["change"] or "no")
    assert found["seconds"] is None
    assert {choice["fits"] for choice in found["choices"]} == {True, False}


def test_rows_at_hand_are_counted(capsys):
    code, written, _ = plan(
        capsys, "quickstart", "--memory", "8GB", "--device", "cpu", "--tflops", "0.1", "--json"
    )
    found = json.loads(written)
    assert code == 0
    assert found["lengths"]["rows"] == 2500
    assert 0 < found["lengths"]["supervised"] < found["lengths"]["tokens"] < 512
    assert found["seconds"] > found["seconds_with_cache"] > 0


def test_rows_of_packs_are_counted_one_by_one(capsys):
    """A step of packs learns from more rows than it has packs."""
    given = ("quickstart", "--memory", "8GB", "--json")
    _, plain, _ = plan(capsys, *given)
    _, packed, _ = plan(capsys, *given, "--set", "train.train_data_loader.packing=true")
    before, after = json.loads(plain), json.loads(packed)
    assert before["rows"] == 560 * 8
    assert after["rows"] == pytest.approx(before["rows"] * 512 / before["lengths"]["tokens"])


def test_where_no_states_can_be_kept_none_are_offered(capsys):
    """A run with such a recipe refuses teacher_cache."""
    given = ("quickstart", "--memory", "8GB", "--with", "methods/on_policy")
    _, text, _ = plan(capsys, *given)
    assert "states only" not in text
    assert "vLLM" not in text
    _, written, _ = plan(capsys, *given, "--json", "--tflops", "1")
    found = json.loads(written)
    assert found["cache"] is found["seconds_with_cache"] is None
    assert found["seconds"] > 0


def test_torch_is_not_loaded_for_a_known_architecture():
    code = (
        "import sys; from distillens_plugin.cli import main\n"
        f"assert main({['plan', *GPT2, '--memory', '8GB']}) == 0\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("--memory", "80XB"), "--memory '80XB': expected a size such as 80GB or 24GiB"),
        (("--memory", "0GB"), "--memory '0GB': expected a size above 0"),
        (("--memory", "1GB", "--reserve", "2GB"), "--reserve 2GB: leaves nothing of --memory 1GB"),
        (("--memory", "8GB", "--devices", "0"), "--devices 0: expected a number above 0"),
        (("--memory", "8GB", "--tflops", "nan"), "--tflops nan: expected a number above 0"),
        (("--memory", "8GB", "--mfu", "40"), "--mfu 40: expected a share of at most 1"),
        (("--memory", "8GB", "--tflops", "1e-320"), "expected a number that a machine can have"),
        (("--memory", "8GB", "--row_tokens", "5000"), "--row_tokens 5000: expected at most 512"),
        (("--memory", "8GB", "--set", "nothing=1"), "nothing"),
    ],
)
def test_bad_input_ends_with_2_and_one_line(capsys, flags, expected):
    code, text, error = plan(capsys, *GPT2, *flags)
    assert (code, text) == (2, "")
    assert expected in error
    assert error.count("\n") == 1


def test_a_missing_config_names_the_key_and_the_way_out(capsys, tmp_path):
    recipe = write_recipe(tmp_path)
    given = ("--memory", "8GB", "--set", f"models.teacher_model.name_or_path={tmp_path / 'no'}")
    code, _, error = plan(capsys, recipe, *given)
    assert code == 2
    assert "models.teacher_model.name_or_path: there is no folder" in error
    assert error.count("\n") == 1


def test_sizes_are_read_in_both_units():
    from distillens_plugin.commands import plan as command

    read = command.size_in_bytes
    assert [read(text, "--memory") for text in ("80GB", "80", "80 gb", "0.08TB")] == [80e9] * 4
    assert read("24GiB", "--memory") == 24 * 2**30
    assert read("500MB", "--memory") == 5e8
    assert read("0", "--reserve", zero=True) == 0
