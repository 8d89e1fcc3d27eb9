"""What importing the packages loads, when keys are registered, what works without torchdistill."""

import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
COMMANDS = (
    "run",
    "recipes",
    "plan",
    "hooks",
    "generate",
    "tune-lens",
    "teacher-fisher",
    "lens",
    "lens-report",
    "study",
)
HARNESS_COMMANDS = (
    *("run", "score", "compare", "judge"),
    *("report", "ls", "validate", "export-lm-eval"),
)
HEAVY = ("torch", "transformers", "torchdistill", "pydantic", "numpy", "yaml", "datasets")


def python(*command):
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=120, cwd=REPO
    )


def check(code):
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


WITHOUT_TORCHDISTILL = """
import sys
sys.modules["torchdistill"] = None  # any import of it fails
"""
REGISTERED = """
from torchdistill.core.interfaces.registry import PRE_EPOCH_PROC_FUNC_DICT
from torchdistill.datasets.registry import COLLATE_FUNC_DICT
from torchdistill.losses.registry import HIGH_LEVEL_LOSS_DICT, get_mid_level_loss
from torchdistill.optim.registry import OPTIM_DICT
assert "distillens.pre_epoch" in PRE_EPOCH_PROC_FUNC_DICT
assert "distillens.collate" in COLLATE_FUNC_DICT
assert "distillens.weighted_sum" in HIGH_LEVEL_LOSS_DICT
assert "distillens.adamw" in OPTIM_DICT
kwargs = {"layers": {"auto": 1}}
loss = get_mid_level_loss({"key": "DistillLensLoss", "kwargs": kwargs})
assert type(loss).__name__ == "DistillLensLoss"
"""


def test_importing_the_plugin_loads_nothing_heavy():
    check(
        "import sys, distillens_plugin\n"
        f"assert not [name for name in {HEAVY} if name in sys.modules]\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("distillens_plugin.cli", "--help"),
        *(("distillens_plugin.cli", command, "--help") for command in COMMANDS),
        ("distillens_plugin.cli", "--version"),
        ("distillens_plugin.run", "--help"),
        ("eval_harness", "--help"),
        *(("eval_harness", command, "--help") for command in HARNESS_COMMANDS),
        ("eval_harness", "--version"),
    ],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(arguments):
    done = python("-X", "importtime", "-m", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in loaded
    assert loaded.isdisjoint(HEAVY)


def test_every_command_is_named_in_the_help():
    for module, commands in (
        ("distillens_plugin.cli", COMMANDS),
        ("eval_harness", HARNESS_COMMANDS),
    ):
        shown = python("-m", module, "--help").stdout
        listed = [line.split()[0] for line in shown.splitlines() if line.startswith("    ")]
        assert [name for name in listed if name in commands] == list(commands)


@pytest.mark.parametrize(
    "first",
    [
        "import distillens_plugin",
        "import torchdistill.core.distillation; import distillens_plugin",
        "from torchdistill.common.main_util import import_dependencies\n"
        "import_dependencies([{'name': 'distillens_plugin'}])",
        "from distillens_plugin import DistillLensLoss, WeightedSum",
    ],
)
def test_the_keys_are_there_in_either_order(first):
    check(f"{first}\n{REGISTERED}")


def modules_that_register():
    """Modules of ours that registering imports."""
    done = python(
        "-c",
        "import sys, torchdistill, distillens_plugin\n"
        "print(*(name for name in sys.modules if name.startswith('distillens_plugin.')))",
    )
    assert done.returncode == 0, done.stderr
    return [name for name in done.stdout.split() if not name.endswith(".registry")]


def test_what_registering_imports_does_not_itself_load_torchdistill():
    # Such a module, imported first, would be asked to register before it is whole.
    names = modules_that_register()
    assert "distillens_plugin.losses.weighted_sum" in names
    check(
        WITHOUT_TORCHDISTILL
        + f"import importlib\nfor name in {names}:\n    importlib.import_module(name)\n"
    )


def test_the_fused_lens_works_without_torchdistill():
    check(
        WITHOUT_TORCHDISTILL + "import torch\n"
        "from distillens_plugin import lens_divergence\n"
        "h = torch.randn(3, 4, requires_grad=True)\n"
        "lens_divergence(h, torch.randn(7, 4), torch.randn(3, 5), torch.randn(7, 5)).backward()\n"
        "assert h.grad.abs().sum() > 0\n"
        "import distillens_plugin.lens.readout, distillens_plugin.lens.discovery, "
        "distillens_plugin.divergences\n"
    )


def test_an_unknown_public_name_is_an_attribute_error():
    check(
        "import distillens_plugin\n"
        "try:\n    distillens_plugin.Nothing\n"
        "except AttributeError as error:\n    assert 'Nothing' in str(error)\n"
        "else:\n    raise SystemExit('found')\n"
    )


def test_the_shim_restores_what_torchdistill_reads_of_accelerate():
    check(
        "import distillens_plugin, torchdistill\n"
        "from accelerate import Accelerator\n"
        "assert Accelerator(cpu=True).state.use_fp16 is False\n"
    )


def test_the_shim_is_still_needed():
    done = python(
        "-c",
        "import inspect, torchdistill.core.distillation as d\n"
        "assert 'use_fp16' in inspect.getsource(d)\n",
    )
    assert done.returncode == 0, (
        "torchdistill no longer reads use_fp16: delete compat.restore_use_fp16"
    )
