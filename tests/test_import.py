"""What importing the packages loads, and what works without torchdistill."""

import subprocess
import sys


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


WITHOUT_TORCHDISTILL = """
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "torchdistill" else find(name, *rest)
sys.modules["torchdistill"] = None  # any import of it fails
"""


def test_importing_the_plugin_registers_its_keys():
    done = python(
        "import distillens_plugin\n"
        "from torchdistill.losses.registry import MIDDLE_LEVEL_LOSS_DICT as terms\n"
        "from torchdistill.losses.registry import HIGH_LEVEL_LOSS_DICT as sums\n"
        "assert {'DistillLensLoss', 'distillens.logits_kd', 'distillens.cross_entropy'} <= "
        "set(terms)\n"
        "assert 'distillens.weighted_sum' in sums\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_fused_lens_works_without_torchdistill():
    done = python(
        WITHOUT_TORCHDISTILL + "import torch\n"
        "from distillens_plugin import lens_divergence\n"
        "h = torch.randn(3, 4, requires_grad=True)\n"
        "lens_divergence(h, torch.randn(7, 4), torch.randn(3, 5), torch.randn(7, 5)).backward()\n"
        "assert h.grad.abs().sum() > 0\n"
        "import distillens_plugin.lens.readout, distillens_plugin.lens.discovery, "
        "distillens_plugin.divergences\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_shim_restores_what_torchdistill_reads_of_accelerate():
    done = python(
        "import distillens_plugin\n"
        "from accelerate import Accelerator\n"
        "assert Accelerator(cpu=True).state.use_fp16 is False\n"
    )
    assert done.returncode == 0, done.stderr


def test_the_shim_is_still_needed():
    done = python(
        "import inspect, torchdistill.core.distillation as d\n"
        "assert 'use_fp16' in inspect.getsource(d)\n"
    )
    assert done.returncode == 0, (
        "torchdistill no longer reads use_fp16: delete compat.restore_use_fp16"
    )
