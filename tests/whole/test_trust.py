"""No file runs code unless the command line gives trust: recipes, studies, models, data.

Whatever would run leaves a marker; docs/security.md names the test behind each of its sentences.
"""

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny_run import save_tiny_model, tiny_recipe
from tiny_study import ENVIRONMENT, METHODS, tiny_study
from watched import call, unchanged

import eval_harness.cli
from distillens_plugin import cli
from distillens_plugin.study.evaluation import evaluation_arguments
from distillens_plugin.study.jobs import import_paths
from distillens_plugin.study.load import load_study
from distillens_plugin.study.plan import make_run
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.trust import (
    MODEL_FLAG,
    RECIPE_FLAG,
    check_folder,
    check_model_args,
)

OWN_CODE = """
from pathlib import Path

Path({marker!r}).touch()
from transformers import GPT2Config, GPT2LMHeadModel


class OwnConfig(GPT2Config):
    model_type = "own_gpt2"


class OwnModel(GPT2LMHeadModel):
    config_class = OwnConfig
"""
SAMPLER = "train.train_data_loader.sampler"


@pytest.fixture(scope="module")
def plain_model(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture
def marker(tmp_path, monkeypatch, plain_model):
    """A file that hostile code makes. The test fails where it is there at the end."""
    path = tmp_path / "MARKER"
    (tmp_path / "teacher").symlink_to(plain_model)  # of `tiny_recipe`, made once
    monkeypatch.chdir(tmp_path)
    yield path
    assert not path.exists()


def write_own_code(model: Path, folder: Path, marker: Path) -> Path:
    """A copy of a model whose config names code of its own."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own_gpt2", "architectures": ["OwnModel"]}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(OWN_CODE.format(marker=str(marker)))
    return folder


def refused(main, *arguments) -> str:
    """The one line of a command that ends with 2, and writes nothing but an evaluation's folder."""
    outcome = call(main, [str(argument) for argument in arguments])
    assert outcome.code == 2, outcome
    assert outcome.message.count("\n") == 1, outcome.message
    assert len(outcome.message) < 1000
    assert main is eval_harness.cli.main or not outcome.touched
    return outcome.message


def with_keys(path: Path, keys: dict) -> Path:
    """The YAML file with dotted keys set."""
    data = yaml.safe_load(path.read_text())
    for dotted, value in keys.items():
        node = data
        *above, last = dotted.split(".")
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


# ---- recipes

RUNNING = {
    "models.teacher_model.trust_remote_code": (True, "runs code that comes with"),
    "models.student_model.trust_remote_code": (True, "runs code that comes with"),
    "models.teacher_model.attn_implementation": ("evil/attention", "code from the Hub"),
    "models.student_model.init.config.attn_implementation": ("evil/attention", "code from the Hub"),
    "models.student_model.init.config.auto_map": (
        {"AutoModel": "evil/x--y.Z"},
        "names a model's own code",
    ),
    "dependencies": ([{"name": "own_module"}], "is imported and so runs"),
    f"{SAMPLER}.class_or_func": ("own_module.Sampler", "is imported and called"),
}


@pytest.mark.parametrize("key", RUNNING)
@pytest.mark.parametrize("way", ["recipe", "base", "fragment", "set", "generate", "lens-report"])
def test_keys_that_run_code_need_trust_wherever_they_stand(tmp_path, marker, key, way):
    (tmp_path / "own_module.py").write_text(f"open({str(marker)!r}, 'w')\n")
    sys.path.insert(0, str(tmp_path))
    value, effect = RUNNING[key]
    recipe = tiny_recipe(tmp_path)
    arguments = ["run", recipe, "--validate"]
    if way in ("recipe", "generate", "lens-report"):
        with_keys(recipe, {key: value})
    if way == "base":
        with_keys(recipe, {key: value})
        (tmp_path / "derived.yaml").write_text("base: recipe.yaml\nseed: 3\n")
        arguments[1] = tmp_path / "derived.yaml"
    elif way == "fragment":
        (tmp_path / "fragment.yaml").write_text("log_every: 2\n")
        arguments += ["--with", with_keys(tmp_path / "fragment.yaml", {key: value})]
    elif way == "set":
        arguments += ["--set", f"{key}={json.dumps(value)}"]
    elif way == "generate":
        arguments = ["generate", recipe, "--output", tmp_path / "answers.jsonl", "--model", "hf"]
    elif way == "lens-report":
        arguments = ["lens-report", recipe]
    try:
        message = refused(cli.main, *arguments)
    finally:
        sys.path.remove(str(tmp_path))
        assert sys.modules.pop("own_module", None) is None
    assert effect in message
    assert RECIPE_FLAG in message
    assert "--set" in message if way == "set" else ".yaml" in message


@pytest.mark.parametrize(
    "value",
    [
        "!import_call {key: os.system, init: {args: ['touch MARKER']}}",
        "!import_get {key: os.system}",
        "!!python/object/apply:os.system ['touch MARKER']",
        "!getattr [os, system]",
    ],
)
@pytest.mark.parametrize("way", ["recipe", "base", "fragment", "set", "study"])
def test_tags_that_run_code_need_trust(tmp_path, marker, value, way):
    recipe = tiny_recipe(tmp_path)
    hostile = tmp_path / "hostile.yaml"
    hostile.write_text(f"seed: {value}\n")
    arguments = ["run", recipe, "--validate"]
    if way == "recipe":
        arguments[1] = hostile
    elif way == "base":
        (tmp_path / "derived.yaml").write_text("base: hostile.yaml\n")
        arguments[1] = tmp_path / "derived.yaml"
    elif way == "fragment":
        arguments += ["--with", hostile]
    elif way == "set":
        arguments += ["--set", f"seed={value}"]
    else:
        hostile.write_text(tiny_study(tmp_path).read_text() + f"budget: {value}\n")
        arguments = ["study", hostile, "--validate"]
    assert RECIPE_FLAG in refused(cli.main, *arguments)


# ---- studies

EVALUATION = {"tasks": ["gsm8k"], "data": {"gsm8k": "./rows.jsonl"}}


@pytest.mark.parametrize(
    ("model", "model_args", "part"),
    [
        ("hf", {"trust_remote_code": True}, RECIPE_FLAG),
        ("hf", {"trust_remote_code": "yes"}, "expected true or false"),
        ("hf", {"dtype": "float32,trust_remote_code=True"}, "dtype"),
        ("hf", {"dtype,trust_remote_code": True}, "not an argument name"),
        ("hf", {"attn_implementation": "evil/attention"}, RECIPE_FLAG),
        ("hf", {"pretrained": "evil/model"}, "its own model"),
        ("vllm", {"trust_remote_code": True}, RECIPE_FLAG),
        ("vllm", {"worker_extension_cls": "own.Worker"}, RECIPE_FLAG),
        ("vllm", {"hf_overrides": {"architectures": ["Own"]}}, RECIPE_FLAG),
    ],
)
@pytest.mark.parametrize("mode", ["--validate", "--dry-run", "--report_only"])
def test_a_study_gives_no_trust_to_its_evaluations(tmp_path, marker, model, model_args, part, mode):
    evaluation = {**EVALUATION, "model": model, "model_args": model_args}
    message = refused(cli.main, "study", tiny_study(tmp_path, evaluation=evaluation), mode)
    assert part in message
    assert "evaluation.model_args" in message


@pytest.mark.parametrize(
    "model_args",
    [
        "trust_remote_code=True",
        "dtype=float32,trust_remote_code=true",
        " trust_remote_code = True",
        "attn_implementation=evil/attention",
    ],
)
def test_a_study_gives_no_trust_to_its_teachers_answers(tmp_path, marker, model_args):
    method = {"fragments": [str(METHODS / "seqkd.yaml")]}
    method["generate"] = {"model": "hf", "model_args": model_args}
    study = tiny_study(tmp_path, methods={"seqkd": method}, compare_to=[])
    message = refused(cli.main, "study", study, "--validate")
    assert RECIPE_FLAG in message
    assert "methods.seqkd.generate.model_args" in message


@pytest.mark.parametrize("where", ["study", "method", "tune"])
def test_a_study_gives_no_trust_to_its_recipes(tmp_path, marker, where):
    keys = {"models.student_model.trust_remote_code": True}
    changes = {"set": {**keys, "models.student_model.tokenizer": "./teacher"}}
    if where == "method":
        changes = {"methods": {"a": {"set": keys}}, "compare_to": []}
    elif where == "tune":
        grid = {key: [value] for key, value in keys.items()}
        changes = {"methods": {"a": {"tune": [grid]}}, "compare_to": [], "tune": {"seeds": [9]}}
    message = refused(cli.main, "study", tiny_study(tmp_path, **changes), "--validate")
    assert RECIPE_FLAG in message


def test_trust_in_a_study_goes_to_its_runs_only_where_it_was_given(tmp_path, marker):
    path = tiny_study(tmp_path, evaluation={**EVALUATION, "model_args": {"dtype": "float32"}})
    for trust in (False, True):
        study = load_study(path, trust=trust)
        run = make_run(study, "main", "lens", 1)
        assert (RECIPE_FLAG in run.command()) is trust
        assert (MODEL_FLAG in evaluation_arguments(run, "default")) is trust
        assert ("PYTHONSAFEPATH" in import_paths(trusted=trust)) is not trust


def test_texts_of_a_study_are_no_flags(tmp_path, marker):
    evaluation = {**EVALUATION, "template": "--trust_remote_code{instruction}"}
    study = load_study(tiny_study(tmp_path, evaluation=evaluation))
    arguments = evaluation_arguments(make_run(study, "main", "lens", 1), "default")
    assert "--template=--trust_remote_code{instruction}" in arguments
    assert not any(argument.startswith("--trust") for argument in arguments)


@pytest.mark.parametrize("trusted", [False, True])
def test_a_module_in_the_working_folder_is_not_taken_for_a_library(tmp_path, trusted):
    marker = tmp_path / "MARKER"
    (tmp_path / "yaml.py").write_text(f"open({str(marker)!r}, 'w')\n")
    subprocess.run(
        [sys.executable, "-m", "eval_harness", "ls"],
        cwd=tmp_path,
        env={**ENVIRONMENT, **import_paths(trusted=trusted)},
        capture_output=True,
    )
    assert marker.exists() is trusted


# ---- models


def evaluate(model, *more, args=""):
    rows = Path(__file__).parents[2] / "eval_harness" / "benchmarks" / "data" / "gsm8k.jsonl"
    return [
        *("run", "--model", "hf", "--model_args", f"pretrained={model}{args}", "--limit", "1"),
        *("--tasks", "gsm8k", "--data", f"gsm8k={rows}", "--output_path", "evaluated"),
        *("--protocol", "greedy", "--gen_kwargs", "max_gen_toks=2", "--device", "cpu", *more),
    ]


def test_a_models_own_code_runs_by_no_command_without_trust(tmp_path, marker, plain_model):
    model = write_own_code(plain_model, tmp_path / "own", marker)
    for args in ("", ",trust_remote_code=False", ",dtype=float32"):
        outcome = call(eval_harness.cli.main, evaluate(model, args=args))
        assert outcome.code == 2, outcome
    recipe = with_keys(tiny_recipe(tmp_path), {"models.teacher_model.name_or_path": str(model)})
    refused(cli.main, "run", recipe, "--validate")
    for arguments in (
        ["run", recipe, "--dry-run"],
        ["hooks", model],
        ["lens-report", recipe],
        ["tune-lens", model, "--data", tmp_path / "none.jsonl", "--output", "x.safetensors"],
    ):
        assert call(cli.main, [str(a) for a in arguments]).code == 2, arguments


def test_a_models_own_code_runs_where_the_command_line_says_so(tmp_path, plain_model):
    """The other side: the marker of these tests is one that code does leave."""
    marker = tmp_path / "MARKER"
    model = write_own_code(plain_model, tmp_path / "own", marker)
    done = subprocess.run(
        [sys.executable, "-m", "eval_harness", *evaluate(model, args=",trust_remote_code=True")],
        cwd=tmp_path,
        env={**ENVIRONMENT, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert marker.exists()


def test_a_run_with_a_models_own_code_works_where_the_command_line_says_so(tmp_path, plain_model):
    """A teacher with code of its own, and a student that is cut from it and wears LoRA."""
    pytest.importorskip("peft")
    marker = tmp_path / "MARKER"
    model = write_own_code(plain_model, tmp_path / "own", marker)
    student = {"init": {"from_teacher_layers": [0, 2]}, "lora": {"r": 2}}
    student["lora"]["target_modules"] = ["c_attn"]
    teacher = {"name_or_path": str(model), "trust_remote_code": True}
    recipe = tiny_recipe(tmp_path, models={"teacher_model": teacher, "student_model": student})
    message = refused(cli.main, "run", recipe)
    assert RECIPE_FLAG in message
    assert not marker.exists()
    done = subprocess.run(
        [sys.executable, "-m", "distillens_plugin.run", str(recipe), RECIPE_FLAG],
        cwd=tmp_path,
        env={**ENVIRONMENT, "HF_MODULES_CACHE": str(tmp_path / "modules")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert marker.exists()
    assert (tmp_path / "out" / "best" / "own.py").is_file()


def test_code_that_transformers_need_not_run_does_not_run(tmp_path, marker, plain_model):
    """A config of a known type that also names code, a custom_generate, a tokenizer's auto_map."""
    model = write_own_code(plain_model, tmp_path / "own", marker)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "gpt2"}))
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]}
    (model / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (model / "custom_generate").mkdir()
    shutil.copy(model / "own.py", model / "custom_generate" / "generate.py")
    assert call(eval_harness.cli.main, evaluate(model)).code == 0
    recipe = with_keys(tiny_recipe(tmp_path), {"models.teacher_model.name_or_path": str(model)})
    assert call(cli.main, ["run", str(recipe), "--validate"]).code == 0


class _Pickled:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))


def test_pickled_weights_are_read_as_numbers_only(tmp_path, marker, plain_model):
    import torch

    model = shutil.copytree(plain_model, tmp_path / "pickled")
    (model / "model.safetensors").unlink()
    for save in (
        lambda file: torch.save({"transformer.wte.weight": _Pickled(marker)}, file),
        lambda file: file.write(pickle.dumps({"a": _Pickled(marker)})),
    ):
        with open(model / "pytorch_model.bin", "wb") as file:
            save(file)
        assert call(eval_harness.cli.main, evaluate(model)).code in (1, 2)
    recipe = with_keys(tiny_recipe(tmp_path), {"models.teacher_model.name_or_path": str(model)})
    assert call(cli.main, ["run", str(recipe), "--dry-run"]).code == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"megatron_config": {"a": 1}, "megatron_core": "own_module"},
        {"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"trust_remote_code": True}},
        {"peft_type": "XLORA"},
        {"peft_type": "SHADOW", "shadow_model": "evil/model"},
    ],
)
def test_an_adapter_that_imports_or_loads_more_than_weights_needs_trust(
    tmp_path, marker, plain_model, changes
):
    pytest.importorskip("peft")
    (tmp_path / "own_module.py").write_text(f"open({str(marker)!r}, 'w')\n")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "target_modules": ["c_attn"], **changes}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    message = refused(eval_harness.cli.main, *evaluate(plain_model, args=f",peft={adapter}"))
    assert MODEL_FLAG in message
    keys = {"models.teacher_model.adapter": str(adapter)}
    message = refused(cli.main, "run", with_keys(tiny_recipe(tmp_path), keys), "--validate")
    assert RECIPE_FLAG in message
    assert "models.teacher_model.adapter" in message


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation", "text_config"])
def test_a_config_that_asks_for_code_of_the_hub_needs_trust(tmp_path, key):
    value = {"attn_implementation": "evil/x"} if key == "text_config" else "evil/attention"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", key: value}))
    with pytest.raises(DistillensError, match=f"config.json: .*{MODEL_FLAG}"):
        check_folder(tmp_path, trusted=False, flag=MODEL_FLAG)
    check_folder(tmp_path, trusted=True, flag=MODEL_FLAG)


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_configs_are_not_read_without_a_limit(tmp_path, name):
    (tmp_path / name).write_text('{"model_type": "gpt2"}' + " " * 10_000_000)
    with pytest.raises(DistillensError, match=f"{name}: found 100000.. bytes, expected at most"):
        check_folder(tmp_path, trusted=False, flag=MODEL_FLAG)


# ---- vLLM's engine arguments

DANGEROUS = {
    "hf_overrides": {"auto_map": {"AutoConfig": "own.Config"}},
    "worker_cls": "own.Worker",
    "worker_extension_cls": "own.Extension",
    "scheduler_cls": "own.Scheduler",
    "distributed_executor_backend": "own.Executor",
    "logits_processors": ["own:Processor"],
    "kv_transfer_config": {"kv_connector_module_path": "own"},
    "kv_connector_module_path": "own",
    "ec_transfer_config": {"ec_connector_module_path": "own"},
    "kv_events_config": {"publisher": "zmq"},
    "speculative_config": {"model": "evil/model"},
    "spec_model": "evil/model",
    "compilation_config": {"inductor_passes": {"x": "own.pass"}},
    "additional_config": {"x": 1},
    "model_class_overrides": {"GPT2LMHeadModel": "own:Model"},
    "model_impl": "own",
    "load_format": "own_plugin",
    "model_loader_extra_config": {"x": 1},
    "tokenizer_mode": "own",
    "config_format": "own",
    "hf_config_path": "evil/model",
    "generation_config": "evil/model",
    "code_revision": "main",
    "io_processor_plugin": "own",
    "reasoning_parser_plugin": "own.py",
    "log_config_file": "own.json",
    "logging_config": {"x": 1},
    "profiler_config": {"x": 1},
    "plugins": ["own"],
    "master_addr": "evil",
    "data_parallel_address": "evil",
    "download_dir": "/",
    "otlp_traces_endpoint": "http://evil",
    "served_by_a_later_version": 1,
    "quantization": {"nested": 1},
    "dtype": ["x"],
}


@pytest.mark.parametrize("key", DANGEROUS)
def test_engine_arguments_that_can_run_code_need_trust(key):
    given = {"pretrained": "x", key: DANGEROUS[key]}
    with pytest.raises(DistillensError, match=f"--model_args {key}: .*{MODEL_FLAG}"):
        check_model_args("vllm", given, trusted=False, where="--model_args", flag=MODEL_FLAG)
    check_model_args("vllm", given, trusted=True, where="--model_args", flag=MODEL_FLAG)


def test_engine_arguments_that_cannot_run_code_need_none():
    given = {
        **{"pretrained": "a,b", "tensor_parallel_size": 2, "gpu_memory_utilization": 0.5},
        **{"enforce_eager": True, "dtype": "bfloat16", "distributed_executor_backend": "mp"},
        **{"load_format": "auto", "add_bos_token": True, "trust_remote_code": False},
    }
    check_model_args("vllm", given, trusted=False, where="--model_args", flag=MODEL_FLAG)


def test_the_command_asks_before_it_looks_for_vllm(tmp_path, marker):
    arguments = evaluate("gpt2", args=",worker_cls=own.Worker")
    arguments[arguments.index("hf")] = "vllm"
    assert MODEL_FLAG in refused(eval_harness.cli.main, *arguments)


# ---- data and benchmarks


def test_a_data_set_brings_no_code(tmp_path, marker):
    recipe = tiny_recipe(tmp_path)
    scripted = tmp_path / "scripted"
    scripted.mkdir()
    (scripted / "scripted.py").write_text(f"open({str(marker)!r}, 'w')\n")
    (scripted / "rows.pkl").write_bytes(pickle.dumps(_Pickled(marker)))
    for keys in (
        {"datasets.train": {"path": str(scripted)}},
        {"datasets.train": {"path": str(scripted / "scripted.py")}},
        {"datasets.train": {"path": "pandas", "data_files": str(scripted / "rows.pkl")}},
    ):
        outcome = call(cli.main, ["run", str(with_keys(recipe, keys)), "--dry-run"])
        assert outcome.code == 2, outcome


@pytest.mark.parametrize(
    "value", ["!!python/object/apply:os.system ['touch MARKER']", "!function own.f"]
)
def test_a_benchmarks_file_brings_no_code(tmp_path, marker, value):
    (tmp_path / "own.yaml").write_text(f"task: own\npath: rows.jsonl\ndescription: {value}\n")
    arguments = ["run", "--model", "hf", "--model_args", "pretrained=x", "--output_path", "out"]
    for more in (["--tasks", "own", "--include_path", str(tmp_path)], ["--tasks", "own.yaml"]):
        refused(eval_harness.cli.main, *arguments, *more)


def test_templates_reach_nothing_but_their_fields(tmp_path, marker):
    recipe = tiny_recipe(tmp_path)
    for template in ("{instruction.__class__}", "{instruction!r}", "{instruction:>9999999999}"):
        keys = {"datasets.train.template": template}
        assert "template" in refused(cli.main, "run", with_keys(recipe, keys), "--validate")


def test_a_chat_template_runs_in_a_sandbox(tmp_path, marker, plain_model):
    from distillens_plugin.models.tokenizers import load_tokenizer
    from eval_harness.shared.text.templates import render_prompt

    tokenizer = load_tokenizer(str(plain_model))
    tokenizer.chat_template = (
        "{{ cycler.__init__.__globals__.os.system('touch " + str(marker) + "') }}"
    )
    with pytest.raises(Exception, match="unsafe"):
        render_prompt("chat", "x", tokenizer=tokenizer)


def test_validation_of_all_this_writes_nothing(tmp_path, marker, plain_model):
    recipe = tiny_recipe(tmp_path)
    call(cli.main, ["run", str(recipe), "--validate"])
    with unchanged(tmp_path):
        assert call(cli.main, ["run", str(recipe), "--validate"]).fault() == ""
    assert os.listdir(tmp_path).count("runs") == 0


def test_the_tests_that_the_document_names_are_there():
    root = Path(__file__).parents[2]
    text = (root / "docs" / "security.md").read_text(encoding="utf-8")
    files = set(re.findall(r"tests/[\w/]+\.py", text))
    assert len(files) > 3
    assert all((root / name).is_file() for name in files)
    names = set(re.findall(r"test_\w+", text)) - {Path(name).stem for name in files}
    here = Path(__file__).read_text(encoding="utf-8")
    assert len(names) > 15
    assert not [name for name in names if f"def {name}(" not in here]
