"""Teachers that are an adapter's folder: commands read them as training does, merged in."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_run import ASSETS, save_tiny_model, tiny_recipe
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillens_plugin.cli import main
from distillens_plugin.lens.teacher_files import teacher_notes, weights_digest
from distillens_plugin.lens.translators import read_info, save_translators
from distillens_plugin.losses.fisher_metric import read_fisher
from distillens_plugin.models.loading import load_teacher
from distillens_plugin.models.named import model_spec
from distillens_plugin.preflight.validate import validate_without_weights
from distillens_plugin.recipe.loading import load_recipe
from eval_harness.errors import DistillensError

ROWS = ["--data", str(ASSETS / "train.jsonl"), "--max_length", "256", "--max_prompt_length", "200"]


def save_adapter(base, folder, seed):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(r=4, lora_alpha=32, target_modules=["c_attn"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A base, two adapters of it, and the first merged in."""
    root = tmp_path_factory.mktemp("models")
    base = save_tiny_model(root / "base")
    for seed, name in enumerate(("adapter", "other")):
        save_adapter(base, root / name, seed)
    load_teacher(model_spec(str(root / "adapter"))).save_pretrained(root / "merged")
    AutoTokenizer.from_pretrained(base).save_pretrained(root / "merged")
    return root


def read_rows(command, teacher, output, *more):
    given = [*ROWS, "--num_rows", "12", "--device", "cpu", "--output", str(output), *more]
    return main([command, str(teacher), *given])


@pytest.mark.parametrize(
    ("command", "more"), [("tune-lens", ["--num_steps", "3"]), ("teacher-fisher", [])]
)
def test_an_adapters_folder_gives_what_the_merged_model_gives(tmp_path, folders, command, more):
    found = {}
    for name in ("adapter", "merged", "base"):
        file = tmp_path / f"{name}.safetensors"
        assert read_rows(command, folders / name, file, "--layers", "1,3", *more) == 0
        found[name] = load_file(file)
    assert found["adapter"].keys() == found["merged"].keys()
    for name, tensor in found["merged"].items():
        torch.testing.assert_close(found["adapter"][name], tensor, rtol=1e-3, atol=1e-6)
    assert any(
        not torch.allclose(found["base"][k], t, rtol=0.02) for k, t in found["merged"].items()
    )
    read = read_info if command == "tune-lens" else read_fisher
    info = read(tmp_path / "adapter.safetensors", "x")
    assert (info.teacher, info.adapter) == (str(folders / "base"), str(folders / "adapter"))
    assert info.weights == weights_digest(folders / "base")
    assert info.adapter_weights == weights_digest(folders / "adapter") is not None


def test_hooks_are_those_of_the_base_with_the_adapter_in_it(folders, capsys):
    printed = []
    for name in ("adapter", "base"):
        assert main(["hooks", str(folders / name)]) == 0
        printed.append(capsys.readouterr().out.splitlines()[:-1])  # the last is a self-check
    assert printed[0] == printed[1]


def edited(folders, target, **fields):
    folder = shutil.copytree(folders / "adapter", target)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return folder


@pytest.mark.parametrize("command", ["tune-lens", "teacher-fisher", "hooks"])
def test_what_cannot_be_loaded_is_told_in_one_line(tmp_path, folders, command, capsys):
    def told(folder):
        run = main([command, str(folder)]) if command == "hooks" else None
        code = read_rows(command, folder, tmp_path / "out") if run is None else run
        assert code == 2
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "base_model_name_or_path = None, expected the base's folder or Hub name" in told(
        edited(folders, tmp_path / "no_base", base_model_name_or_path=None)
    )
    gone = str(tmp_path / "gone")
    assert f"name_or_path: cannot load '{gone}'" in told(
        edited(folders, tmp_path / "base_gone", base_model_name_or_path=gone)
    )
    bare = edited(folders, tmp_path / "bare")
    (bare / "adapter_model.safetensors").unlink()
    assert "no adapter_model.safetensors" in told(bare)
    other = save_tiny_model(tmp_path / "shallow", layers=1)
    moved = edited(folders, tmp_path / "moved", base_model_name_or_path=str(other))
    assert "is it an adapter of another model?" in told(moved)
    assert not (tmp_path / "out").exists()


def test_a_file_is_refused_with_another_adapter_or_without_its_own(tmp_path, folders, capsys):
    base, adapter, other = (str(folders / name) for name in ("base", "adapter", "other"))
    file = tmp_path / "own.safetensors"
    maps = {2: (torch.zeros(32, 32), torch.zeros(32))}
    save_translators(file, maps, num_layers=4, notes=teacher_notes(base, adapter))
    info = read_info(file, "x")
    info.check_weights(base, "x", adapter=adapter)
    with pytest.raises(DistillensError, match=r"trained on other weights than those in .*other;"):
        info.check_weights(base, "x", adapter=other)
    with pytest.raises(DistillensError, match=r"adapter .*adapter, but the teacher is .* without"):
        info.check_weights(base, "x")
    with pytest.raises(DistillensError, match=r"trained on other weights than those in .*merged;"):
        info.check_weights(folders / "merged", "x", adapter=adapter)
    rows = [*ROWS, "--rows", "2", "--norm", "final", "--device", "cpu", "--translators", str(file)]
    assert main(["lens", adapter, *rows]) == 0
    assert main(["lens", other, *rows]) == 2
    assert "trained on other weights than those in" in capsys.readouterr().err
    # A plain model's file may be that of the merged one.
    save_translators(file, maps, num_layers=4, notes=teacher_notes(str(folders / "merged"), None))
    read_info(file, "x").check_weights(base, "x", adapter=adapter)
    save_translators(file, maps, num_layers=4, notes=teacher_notes("org/base", "org/one"))
    with pytest.raises(DistillensError, match="on org/one, but the teacher's adapter is org/two;"):
        read_info(file, "x").check_weights("org/base", "x", adapter="org/two")


def test_a_recipe_whose_teacher_has_another_adapter_than_the_file_is_refused(tmp_path, folders):
    file = tmp_path / "own.safetensors"
    maps = {2: (torch.zeros(32, 32), torch.zeros(32))}
    notes = teacher_notes(str(folders / "base"), str(folders / "adapter"))
    save_translators(file, maps, num_layers=4, notes=notes)
    recipe = tiny_recipe(tmp_path)
    lens = "train.criterion.kwargs.sub_terms.lens.criterion.kwargs"
    changes = [
        f"{lens}.teacher_translators={file}",
        f"models.teacher_model.name_or_path={folders / 'base'}",
    ]

    def validate(adapter):
        change = f"models.teacher_model.adapter={folders / adapter}"
        return validate_without_weights(load_recipe(recipe, [*changes, change]))

    assert any("own.safetensors" in line for line in validate("adapter"))
    with pytest.raises(DistillensError, match=r"trained on other weights than those in .*other;"):
        validate("other")
