"""The tuned lens: identity at the start, better after training, and read by DistillLensLoss."""

import argparse
import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from tiny_run import ASSETS, save_tiny_model, tiny_recipe
from transformers import AutoModelForCausalLM

from distillens_plugin.cli import main
from distillens_plugin.commands import tune_lens as tune_lens_command
from distillens_plugin.commands.teacher_data import data_of
from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.build import build_experiment
from distillens_plugin.experiment.data import load_data
from distillens_plugin.lens.teacher_files import weights_digest
from distillens_plugin.lens.translators import Translators, read_info, save_translators
from distillens_plugin.preflight.validate import validate_without_weights
from distillens_plugin.recipe.loading import load_recipe
from eval_harness.errors import DistillensError

LENS = "train.criterion.kwargs.sub_terms.lens.criterion.kwargs"
NO_KD = "train.criterion.kwargs.sub_terms.kd=null"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Four layers that differ: with its first random weights every layer reads nearly the same."""
    folder = save_tiny_model(tmp_path_factory.mktemp("teacher") / "teacher")
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(3 if "h." in name else 8)
    model.save_pretrained(folder)
    return folder


def random_maps(layers=(2,), width=32, scale=0.05):
    generator = torch.Generator().manual_seed(3)
    return {
        k: (
            scale * torch.randn(width, width, generator=generator),
            torch.randn(width, generator=generator),
        )
        for k in layers
    }


def saved(folder, maps=None, num_layers=4):
    path = folder / "translators.safetensors"
    save_translators(path, maps or random_maps(), num_layers=num_layers, notes={"by": "a test"})
    return path


def notes_of(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["distillens.translators"])["notes"]


def lens_loss(folder, *changes):
    """The lens term of a first batch, and what it was computed from."""
    recipe = load_recipe(
        tiny_recipe(folder), ["datasets.validation=null", NO_KD, "train.student=null", *changes]
    )
    accelerator = make_accelerator(recipe, None)
    experiment = build_experiment(recipe, accelerator, load_data(recipe))
    experiment.student.eval()
    box = experiment.box
    batch, targets = next(iter(box.train_data_loader))
    return box.forward_process(batch, targets), experiment, batch, targets


def test_translators_of_zeros_leave_the_logit_lens_as_it_is(tmp_path):
    zeros = {2: (torch.zeros(32, 32), torch.zeros(32))}
    plain = lens_loss(tmp_path)[0]
    tuned = lens_loss(tmp_path, f"{LENS}.teacher_translators={saved(tmp_path, zeros)}")[0]
    assert tuned.item() == pytest.approx(plain.item(), rel=1e-6)


def test_the_teachers_layers_are_read_through_the_translators_in_float64_too(tmp_path):
    maps = random_maps((1, 2))
    path = saved(tmp_path, maps)
    loss, experiment, batch, targets = lens_loss(tmp_path, f"{LENS}.teacher_translators={path}")
    loss.backward()
    assert experiment.teacher.lm_head.weight.grad is None
    teacher, student = experiment.teacher.double(), experiment.student.double()
    seen = {}
    for role, model in (("t", teacher), ("s", student)):
        for k, block in enumerate(model.transformer.h, start=1):
            block.register_forward_hook(
                lambda module, args, output, key=(role, k): seen.update({key: output})
            )
    with torch.no_grad():
        for model in (teacher, student):
            model(**batch)
    mask = targets["labels"][:, 1:] != -100

    def log_probs(model, hidden):
        return torch.log_softmax(model.lm_head(model.transformer.ln_f(hidden)), -1)

    expected = torch.zeros((), dtype=torch.float64)
    for a, b in ((1, 2), (2, 4)):
        hidden = seen["t", b][:, :-1][mask]
        if b in maps:  # the last layer, 4, needs none
            weight, bias = (tensor.double() for tensor in maps[b])
            hidden = hidden + hidden @ weight.T + bias
        log_p, log_q = log_probs(teacher, hidden), log_probs(student, seen["s", a][:, :-1][mask])
        log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0, dtype=torch.float64))
        parts = log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)
        expected += parts.sum(-1).mean() / 4
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def arguments(teacher, output, *more):
    command = ["tune-lens", str(teacher), "--data", str(ASSETS / "train.jsonl")]
    command += ["--num_rows", "48", "--max_length", "256", "--max_prompt_length", "200"]
    return [*command, "--output", str(output), "--device", "cpu", *more]


def test_training_lowers_the_kl_to_the_final_distribution_on_held_out_rows(tmp_path, teacher):
    output = tmp_path / "t.safetensors"
    more = ["--num_steps", "40", "--lr", "1e-2", "--layers", "1,3"]
    done = subprocess.run(
        [sys.executable, "-m", "distillens_plugin.cli", *arguments(teacher, output, *more)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    info = read_info(output, "x")
    assert (info.num_layers, info.width, info.layers) == (4, 32, (1, 3))
    assert info.weights == weights_digest(teacher) is not None
    with safe_open(output, framework="pt") as file:
        weight = file.get_tensor("layers.3.weight")
    assert weight.abs().max() > 0
    for result in notes_of(output)["held_out_kl"]:
        assert 0 < result["kl_tuned_lens"] < 0.8 * result["kl_logit_lens"]
        line = f"{result['layer']:5d}  {result['kl_logit_lens']:23.4f}"
        assert line in done.stdout
    again = tmp_path / "again.safetensors"
    assert main(arguments(teacher, again, *more)) == 0
    assert again.read_bytes() == output.read_bytes()


def test_the_kl_before_training_is_that_of_the_logit_lens_in_float64(tmp_path, teacher):
    from distillens_plugin.data.examples import load_examples
    from distillens_plugin.models.tokenizers import load_tokenizer
    from distillens_plugin.recipe.schema.data import DatasetSpec

    output = tmp_path / "t.safetensors"
    assert main(arguments(teacher, output, "--num_steps", "1", "--layers", "0,2")) == 0
    measured = notes_of(output)["held_out_kl"]
    model = AutoModelForCausalLM.from_pretrained(teacher).double().eval()
    spec = DatasetSpec(
        path=str(ASSETS / "train.jsonl"), num_rows=48, max_length=256, max_prompt_length=200
    )
    examples = load_examples(spec, load_tokenizer(str(teacher)), where="x")
    sums, count = {0: 0.0, 2: 0.0}, 0
    seen = {}
    model.transformer.h[0].register_forward_pre_hook(lambda m, args: seen.update({0: args[0]}))
    model.transformer.h[1].register_forward_hook(lambda m, args, out: seen.update({2: out}))
    for index in range(len(examples) - max(1, len(examples) // 10), len(examples)):
        row = examples[index]
        with torch.no_grad():
            logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
        mask = torch.tensor(row["labels"])[1:] != -100
        log_p = torch.log_softmax(logits[mask], -1)
        count += int(mask.sum())
        for layer in sums:
            hidden = model.transformer.ln_f(seen[layer][0, :-1][mask])
            log_q = torch.log_softmax(model.lm_head(hidden), -1)
            sums[layer] += (log_p.exp() * (log_p - log_q)).sum().item()
    for result in measured:
        assert result["kl_logit_lens"] == pytest.approx(sums[result["layer"]] / count, rel=1e-4)


def test_a_file_of_another_teacher_or_of_something_else_is_refused(tmp_path):
    path = saved(tmp_path)
    with pytest.raises(DistillensError, match=r"x: these translators are for 4 layers of width 32"):
        Translators(path, [2], num_layers=4, width=48, where="x")
    with pytest.raises(DistillensError, match=r"no translator for the teacher's layer 3"):
        Translators(path, [2, 3], num_layers=4, width=32, where="x")
    with pytest.raises(DistillensError, match=r"no translator for the teacher's layer a\.b"):
        Translators(path, ["a.b"], num_layers=4, width=32, where="x")
    assert Translators(path, [4], num_layers=4, width=32, where="x")
    with pytest.raises(DistillensError, match="there is no such file"):
        read_info(tmp_path / "none", "x")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(DistillensError, match="the file holds none; expected a file that"):
        read_info(tmp_path / "text", "x")


def test_translators_of_a_teacher_that_was_trained_again_are_refused(tmp_path):
    recipe = tiny_recipe(tmp_path)
    teacher, path = tmp_path / "teacher", tmp_path / "own.safetensors"
    maps = {2: (torch.zeros(32, 32), torch.zeros(32))}
    notes = {"teacher_weights": weights_digest(teacher)}
    save_translators(path, maps, num_layers=4, notes=notes)
    changes = [f"{LENS}.teacher_translators={path}"]
    assert validate_without_weights(load_recipe(recipe, changes))
    file = teacher / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(DistillensError, match=r"trained on other weights than those in .*teacher"):
        validate_without_weights(load_recipe(recipe, changes))
    assert weights_digest("") is None
    assert weights_digest("org/model") is None
    # Which layers are read is yet to be measured, but whose they are is known.
    measured = [f"{LENS}.layers={{auto: 1, by: divergence}}", f"{LENS}.norm=final", *changes]
    with pytest.raises(DistillensError, match=r"trained on other weights than those in .*teacher"):
        validate_without_weights(load_recipe(recipe, measured))


def test_translators_of_another_model_of_the_hub_are_refused(tmp_path):
    maps = {2: (torch.zeros(32, 32), torch.zeros(32))}
    path = tmp_path / "base.safetensors"
    save_translators(path, maps, num_layers=4, notes={"teacher": "org/base"})
    info = read_info(path, "x")
    info.check_weights("org/base", "x")
    with pytest.raises(DistillensError, match="trained on org/base, but the teacher is org/chat"):
        info.check_weights("org/chat", "x")
    # A copy in a folder cannot be told from its name.
    tiny_recipe(tmp_path)
    info.check_weights(tmp_path / "teacher", "x")


def test_the_rows_begin_as_those_of_the_recipe():
    parser = argparse.ArgumentParser()
    tune_lens_command.add_parser(parser.add_subparsers())
    command = ["tune-lens", "TEACHER", "--data", "rows.jsonl", "--output", "x", "--newline", "<n>"]
    data = data_of(parser.parse_args([*command, "--add_bos_token", "false"]))
    assert (data.add_bos_token, data.newline) == (False, "<n>")
    assert data_of(parser.parse_args(command)).add_bos_token == "auto"


def test_validate_checks_the_translators_against_the_teacher(tmp_path):
    path = saved(tmp_path)
    recipe = load_recipe(tiny_recipe(tmp_path), [f"{LENS}.teacher_translators={path}"])
    lines = validate_without_weights(recipe)
    assert f"ok translators: {path}, 1 layers" in lines
    recipe = load_recipe(
        tiny_recipe(tmp_path),
        [f"{LENS}.teacher_translators={path}", f"{LENS}.layers.teacher=[1, 4]"],
    )
    with pytest.raises(DistillensError, match="no translator for the teacher's layer 1"):
        validate_without_weights(recipe)
    with pytest.raises(DistillensError, match=r"found identity with teacher_translators"):
        load_recipe(
            tiny_recipe(tmp_path), [f"{LENS}.teacher_translators={path}", f"{LENS}.norm=identity"]
        )


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--layers", "4"], "--layers 4: the teacher has layers 0 to 4"),
        (["--layers", "x"], "--layers x: expected layer numbers"),
        (["--template", "nosuch"], "tune-lens: --template: template 'nosuch' is not known"),
        (["--max_length", "300"], "but the teacher has 256 positions; pass --max_length 256"),
        (["--lr", "0"], "--lr 0.0: expected more than 0"),
        (["--output", "/dev/null/t.safetensors"], "/dev/null: cannot be written"),
        (["--output", "."], "--output .: is a folder; name a file"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, teacher, more, expected, capsys):
    assert main(arguments(teacher, tmp_path / "t.safetensors", *more)) == 2
    assert expected in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_seed_that_torch_cannot_hold_is_refused_by_name(tmp_path, teacher, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(arguments(teacher, tmp_path / "t.safetensors", "--seed", "9" * 23))
    assert f"--seed: found {'9' * 23}, expected an integer from 0" in capsys.readouterr().err
