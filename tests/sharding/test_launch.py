"""What a launcher's variables say, from the shipped configurations through accelerate's own."""

import pytest
from accelerate import Accelerator
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from run_process import ENVIRONMENT, TWO_PROCESSES, distillens
from tiny_run import REPO, tiny_recipe

from distillens_plugin.experiment.accelerator import make_accelerator
from distillens_plugin.experiment.placement import placement_of
from distillens_plugin.preflight.sharding import check_fits, check_precision, fitting_line
from distillens_plugin.preflight.validate import validate_without_weights
from distillens_plugin.recipe.loading import load_recipe
from distillens_plugin.sharding.launch import CONFIGURATIONS, launch_of
from eval_harness.errors import DistillensError


def launched(file, *flags):
    """The variables that `accelerate launch` gives its processes."""
    given = ["--config_file", str(file), *flags, "script.py"]
    arguments = launch_command_parser().parse_args(given)
    arguments, _, _ = _validate_launch_command(arguments)
    if arguments.use_deepspeed:
        arguments.deepspeed_fields_from_accelerate_config = ""  # as its launch_command does
        return prepare_deepspeed_cmd_env(arguments)[1]
    return prepare_multi_gpu_env(arguments)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_shipped_configuration_says_what_its_name_does(name):
    launch = launch_of(launched(REPO / "recipes" / "accelerate" / f"{name}.yaml"))
    assert launch.kind == name
    assert launch.shards_models is launch.one_rank_reads is (name in ("fsdp2", "hsdp"))


FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
DEEPSPEED = {"ACCELERATE_USE_DEEPSPEED": "true"}
AXES = {"ACCELERATE_USE_PARALLELISM_CONFIG": "true"}


@pytest.mark.parametrize(
    ("variables", "kind"),
    [
        ({}, "ddp"),
        (FSDP, "fsdp2"),
        ({**FSDP, **AXES, "PARALLELISM_CONFIG_DP_SHARD_SIZE": "4"}, "fsdp2"),
        ({**FSDP, **AXES, "PARALLELISM_CONFIG_DP_REPLICATE_SIZE": "2"}, "hsdp"),
        # Without the switch, accelerate does not look at the sizes.
        ({**FSDP, "PARALLELISM_CONFIG_TP_SIZE": "2"}, "fsdp2"),
        (DEEPSPEED, "zero2"),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "1"}, "zero1"),
    ],
)
def test_what_is_supported(variables, kind):
    assert launch_of(variables).kind == kind


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ({**FSDP, "FSDP_VERSION": "1"}, "FSDP version 1"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP version 1"),
        ({**FSDP, "FSDP_OFFLOAD_PARAMS": "true"}, "FSDP2 with parameters offloaded"),
        ({**FSDP, "FSDP_ACTIVATION_CHECKPOINTING": "true"}, "FSDP2 with activation checkpointing"),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "ZeRO stage 3"),
        ({**DEEPSPEED, "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "cpu"}, "params offloaded"),
        ({**AXES, "PARALLELISM_CONFIG_TP_SIZE": "2"}, "tensor parallel over 2"),
        ({**FSDP, **AXES, "PARALLELISM_CONFIG_CP_SIZE": "2"}, "context parallel over 2"),
        ({**DEEPSPEED, **AXES, "PARALLELISM_CONFIG_SP_SIZE": "2"}, "sequence parallel over 2"),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, r"tensor and pipeline parallel"),
    ],
)
def test_what_is_refused_names_what_to_use(variables, found):
    with pytest.raises(DistillensError, match=rf"{found}.*not supported; .*fsdp2\.yaml") as refused:
        launch_of(variables)
    message = str(refused.value)
    assert "\n" not in message
    # What only the recipe can say.
    assert ("gradient_checkpointing: true" in message) is ("activation" in found)


def test_a_deepspeed_file_of_ones_own_is_refused():
    variables = {**DEEPSPEED, "ACCELERATE_DEEPSPEED_CONFIG_FILE": "mine.json"}
    with pytest.raises(DistillensError, match=r"a DeepSpeed file of its own.*zero2\.yaml"):
        launch_of(variables)


def test_a_launch_that_shards_nothing_ends_the_command(tmp_path, monkeypatch):
    """accelerate ignores FSDP on a CPU, without a word."""
    for name, value in FSDP.items():
        monkeypatch.setitem(ENVIRONMENT, name, value)
    done = distillens(tiny_recipe(tmp_path))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "shards nothing here (cpu, 1 processes)" in done.stderr


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_precision_of_the_launcher_that_is_not_the_recipes_is_refused(tmp_path, name):
    """accelerate would train in the recipe's, without a word."""
    path = tiny_recipe(tmp_path)
    recipe, half = load_recipe(path), load_recipe(path, overrides=["mixed_precision=bf16"])
    file = REPO / "recipes" / "accelerate" / f"{name}.yaml"
    check_precision(recipe, launched(file))
    check_precision(half, launched(file))
    asked = launched(file, "--mixed_precision", "bf16")
    check_precision(half, asked)
    with pytest.raises(DistillensError, match=r"found no, .* bf16 .*; set it with --set mixed_pre"):
        check_precision(recipe, asked)
    with pytest.raises(DistillensError, match=r"asks for fp8 .* counts; launch with --mixed_prec"):
        check_precision(recipe, {**asked, "ACCELERATE_MIXED_PRECISION": "fp8"})


def test_another_precision_ends_the_command(tmp_path, monkeypatch):
    recipe = load_recipe(tiny_recipe(tmp_path))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.raises(DistillensError, match="mixed_precision: found no, but accelerate launch"):
        make_accelerator(recipe, None)


@pytest.mark.parametrize("on_cpu", ["false", "true"])
def test_deepspeed_without_a_gpu_ends_the_command(tmp_path, monkeypatch, on_cpu):
    """accelerate would compile for minutes, or ignore it."""
    pytest.importorskip("deepspeed")
    for name, value in {**DEEPSPEED, "ACCELERATE_USE_CPU": on_cpu}.items():
        monkeypatch.setitem(ENVIRONMENT, name, value)
    monkeypatch.setitem(ENVIRONMENT, "CUDA_VISIBLE_DEVICES", "")
    done = distillens(tiny_recipe(tmp_path, resumable=False))
    assert done.returncode == 2
    assert "DeepSpeed, but there are no GPUs here" in done.stderr


def test_processes_that_accelerate_does_not_join_are_refused(tmp_path, monkeypatch):
    """ddp.yaml on a machine without GPUs: each process would train by itself."""
    monkeypatch.delitem(ENVIRONMENT, "ACCELERATE_USE_CPU")
    monkeypatch.setitem(ENVIRONMENT, "CUDA_VISIBLE_DEVICES", "")
    done = distillens(tiny_recipe(tmp_path), launcher=TWO_PROCESSES)
    assert "the launcher started 2 processes, but accelerate joins none of them" in done.stderr
    assert "exitcode  : 2" in done.stderr


def test_validation_says_what_fits_whatever_the_launcher_was_told(tmp_path, monkeypatch):
    recipe = load_recipe(tiny_recipe(tmp_path))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert fitting_line(recipe) in validate_without_weights(recipe)
    with pytest.raises(DistillensError, match="FSDP version 1"):
        make_accelerator(recipe, None)


def test_a_teacher_on_a_device_that_is_not_there_is_refused(tmp_path):
    recipe = load_recipe(tiny_recipe(tmp_path), overrides=["sharding.teacher=cuda:99"])
    with pytest.raises(DistillensError, match=r"sharding\.teacher: found cuda:99, but there are"):
        placement_of(recipe, Accelerator(cpu=True))


def line_of(folder, *overrides):
    return fitting_line(load_recipe(tiny_recipe(folder), overrides=list(overrides)))


def test_which_configurations_fit(tmp_path):
    start = "ok sharding: of recipes/accelerate,"
    zero = "not zero2 (resumable: true)"
    assert line_of(tmp_path) == f"{start} ddp, fsdp2, hsdp fit; {zero}"
    assert line_of(tmp_path, "resumable=false") == f"{start} ddp, fsdp2, hsdp, zero2 fit"
    assert line_of(tmp_path, "mixed_precision=fp16") == (
        f"{start} ddp fit; not fsdp2, hsdp, zero2 (mixed_precision: fp16)"
    )
    assert line_of(tmp_path, "sharding.teacher=sharded") == (
        f"{start} fsdp2, hsdp fit; not ddp, zero2 (sharding.teacher: sharded)"
    )


@pytest.mark.parametrize(
    ("override", "kind", "expected"),
    [
        ("mixed_precision=fp16", "fsdp2", "mixed_precision: found fp16 under fsdp2, expected bf16"),
        ("sharding.teacher=sharded", "ddp", "sharding.teacher: found sharded under ddp"),
        ("sharding.reshard_teacher=true", "zero2", "sharding.reshard_teacher: found true"),
        ("resumable=true", "zero2", "set resumable: false, or launch with .*fsdp2.yaml"),
        ("train.teacher.requires_grad=true", "hsdp", "train.teacher.requires_grad: found true"),
    ],
)
def test_a_recipe_that_does_not_fit_is_refused(tmp_path, override, kind, expected):
    recipe = load_recipe(tiny_recipe(tmp_path), overrides=[override])
    with pytest.raises(DistillensError, match=expected):
        check_fits(recipe, kind)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["sharding.teacher=gpu"], "sharding.teacher: found 'gpu', expected sharded, replicated"),
        (["sharding.timeout_minutes=0"], "sharding.timeout_minutes"),
        (
            ["sharding.teacher=cpu", "sharding.reshard_teacher=true"],
            "sharding.reshard_teacher: there is no sharded teacher",
        ),
    ],
)
def test_keys_that_make_no_sense_are_refused(tmp_path, overrides, expected):
    with pytest.raises(DistillensError, match=expected):
        load_recipe(tiny_recipe(tmp_path), overrides=overrides)
