"""The command `python -m distillens_plugin.run`, as a real process on a tiny pair."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from run_process import ENVIRONMENT, TWO_PROCESSES, change, distillens, records
from tiny_run import REPO, tiny_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    path = tiny_recipe(folder)
    change(path, "train.num_epochs", 2)
    done = distillens(path)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done


def test_a_run_prints_counts_losses_answers_and_where_everything_lies(finished):
    folder, done = finished
    out = done.stdout
    assert "24 rows read, 23 kept (1 with prompts over 200 tokens" in out
    assert "lens: layer pairs 1-2 2-4" in out
    assert "validation loss before training: " in out
    assert "reference:\n" in out
    summary = json.loads((folder / "out" / "summary.json").read_text(encoding="utf-8"))
    before, after = summary["validation_loss_before"], summary["validation_loss_after"]
    assert after < before
    assert f"validation loss: {before:.4f} before, {after:.4f} after 6 steps" in out
    for name in ("best", "last", "metrics.jsonl", "summary.json"):
        assert str(folder / "out" / name) in out
        assert (folder / "out" / name).exists()


def test_metrics_hold_every_term_and_layer_pair_of_each_step(finished):
    folder, _ = finished
    steps = [record for record in records(folder / "out") if "loss" in record]
    assert [record["step"] for record in steps] == [1, 2, 3, 4, 5, 6]
    for record in steps:
        assert record["lens"] == pytest.approx(
            (record["lens/1-2"] + record["lens/2-4"]) / 2, rel=1e-4
        )
        assert record["loss"] == pytest.approx(record["kd"] + record["lens"], rel=1e-4)
        assert record["grad_norm"] > 0
    validations = [r["validation_loss"] for r in records(folder / "out") if "validation_loss" in r]
    assert len(validations) == 3  # before training and after each epoch
    assert steps[-1]["lr"] < steps[0]["lr"]


def test_the_saved_folder_loads_in_transformers_and_answers_alike(finished):
    folder, done = finished
    tokenizer = AutoTokenizer.from_pretrained(folder / "out" / "last")
    model = AutoModelForCausalLM.from_pretrained(folder / "out" / "last").eval()
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    printed = done.stdout.partition("  prompt:\n")[2].partition("  answer:\n")
    prompt = printed[0].replace("    ", "").rstrip("\n") + "\n"
    answer = printed[2].partition("  reference:\n")[0].replace("\n    ", "\n").strip()
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    with torch.no_grad():
        generated = model.generate(**ids, max_new_tokens=8, do_sample=False)
    text = tokenizer.decode(generated[0, ids["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text.strip() == answer


def test_the_model_card_states_recipe_data_teacher_results_and_versions(finished):
    folder, _ = finished
    card = (folder / "out" / "best" / "README.md").read_text(encoding="utf-8")
    for part in (
        "distilled from ./teacher",
        "23 kept",
        "validation_loss",
        "torchdistill 1.",
        "sub_terms",
    ):
        assert part in card, part


def test_a_folder_that_holds_a_run_is_kept_unless_overwrite_is_given(finished):
    folder, _ = finished
    kept = (folder / "out" / "metrics.jsonl").read_bytes()
    refused = distillens(folder / "recipe.yaml")
    assert refused.returncode == 2
    assert "--overwrite" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert (folder / "out" / "metrics.jsonl").read_bytes() == kept
    again = distillens(folder / "recipe.yaml", "--overwrite", "--set", "train.num_epochs=1")
    assert again.returncode == 0, again.stderr[-3000:]
    assert records(folder / "out")[-1]["step"] == 3


def test_dry_run_takes_a_step_and_writes_nothing(tmp_path):
    path = tiny_recipe(tmp_path)
    done = distillens(path, "--dry-run")
    assert done.returncode == 0, done.stderr[-3000:]
    for part in ("input_ids [8, ", "lens/1-2: ", "kd: ", "peak memory: ", "for 3 steps"):
        assert part in done.stdout, part
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("cold_python")  # one by real torchrun and new processes
def test_two_processes_train_one_student(tmp_path):
    path = tiny_recipe(tmp_path)
    change(path, "train.train_data_loader.kwargs.batch_size", 4)
    done = distillens(path, launcher=TWO_PROCESSES)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("validation loss before training") == 1
    assert records(tmp_path / "out")[-1]["step"] == 3


def test_a_nan_loss_stops_before_the_step_and_names_where(tmp_path):
    path = tiny_recipe(tmp_path)
    teacher = AutoModelForCausalLM.from_pretrained(tmp_path / "teacher")
    with torch.no_grad():
        # Position 150: beyond the start-up probe, and within most rows.
        teacher.transformer.wpe.weight[150].fill_(float("nan"))
    teacher.save_pretrained(tmp_path / "teacher")
    done = distillens(path)
    assert done.returncode == 1
    line = done.stderr.strip().split("\n")[-1]
    assert "step 1: the loss is not finite" in line
    assert "lens/1-2" in line
    assert "gsm8k-train-" in line
    assert not (tmp_path / "out" / "last").exists()


@pytest.mark.parametrize(
    ("dotted", "value", "expected"),
    [
        ("train.optimiser", {}, "optimizer"),
        ("train.optimizer", {"key": "SGD", "kwargs": {"lr": 0.1, "momentumm": 1}}, "momentumm"),
        ("train.scheduler", {"key": "OneCycleLR", "kwargs": {"max_lr": 0.1}}, "total_steps"),
        ("train.criterion.kwargs.sub_terms.lens.criterion.kwargs.beta", 1.5, "beta"),
        (
            "train.criterion.kwargs.sub_terms.lens.criterion.kwargs.layers",
            {"student": [1, 3], "teacher": [2, 4]},
            "layers 0 to 2",
        ),
        (
            "train.criterion.kwargs.sub_terms.lens.criterion.kwargs.layers",
            {"student": [1, "transformer.g.1"], "teacher": [2, 4]},
            "transformer.h.1",
        ),
        (
            "train.criterion.kwargs.sub_terms.lens.criterion.kwargs.layers",
            {"student": [1], "teacher": [2, 4]},
            "as many of each",
        ),
        ("datasets.train.path", "./nowhere.jsonl", "nowhere.jsonl"),
        ("datasets.train.max_prompt_length", 3, "0 kept"),
        ("datasets.train.max_length", 300, "256 positions"),
        ("models.teacher_model.name_or_path", "./nowhere", "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, dotted, value, expected):
    path = tiny_recipe(tmp_path)
    if dotted.endswith("max_length"):
        change(path, "datasets.train.long_prompts", "cut")
        change(path, "datasets.train.max_prompt_length", 290)
        change(path, "datasets.train.loss_on_prompt", True)
        change(path, "datasets.train.num_rows", 400)
    change(path, dotted, value)
    done = distillens(path)
    assert done.returncode == 2, done.stderr[-3000:]
    assert done.stderr.count("\n") == 1, done.stderr
    assert expected in done.stderr
    assert not (tmp_path / "out").exists()


def test_malformed_data_names_file_line_and_column(tmp_path):
    path = tiny_recipe(tmp_path)
    data = tmp_path / "rows.jsonl"
    data.write_text(
        '{"instruction": "a", "output": "b"}\n{"instruction": oops}\n', encoding="utf-8"
    )
    change(path, "datasets.train.path", str(data))
    done = distillens(path)
    assert done.returncode == 2
    assert f"{data}:2:17" in done.stderr


def test_the_learning_rate_may_be_written_1e_4(tmp_path):
    path = tiny_recipe(tmp_path)
    text = path.read_text(encoding="utf-8").replace("lr: 0.002", "lr: 1e-4")
    assert "lr: 1e-4" in text
    path.write_text(text, encoding="utf-8")
    done = distillens(path, "--validate", "--print")
    assert done.returncode == 0, done.stderr
    assert "lr: 0.0001" in done.stdout


def test_argparse_errors_are_one_line_and_exit_code_2():
    done = distillens("--nonsense")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


def test_interrupting_a_run_keeps_its_last_checkpoint(tmp_path):
    path = tiny_recipe(tmp_path)
    change(path, "train.num_epochs", 10000)
    command = [sys.executable, "-m", "distillens_plugin.run", str(path)]
    process = subprocess.Popen(
        command,
        env=ENVIRONMENT,
        cwd=REPO,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    wait_for(Path(tmp_path / "out" / "last" / "model.safetensors"), process)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143, errors[-2000:]
    AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "last")


def wait_for(path, process, timeout_s=120):
    import time

    deadline = time.monotonic() + timeout_s
    while not path.exists():
        assert process.poll() is None, process.communicate()[1][-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)
