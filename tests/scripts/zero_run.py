"""`distillens run` with DeepSpeed's ZeRO-2 on a CPU: the arguments are the command's.

Usage: torchrun --standalone --nproc_per_node=2 zero_run.py RECIPE --output_dir FOLDER ...
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import zero_on_cpu

from distillens_plugin import run
from distillens_plugin.training import train

zero_on_cpu.install()
build = train.build_experiment


def checked(*arguments, **keywords):
    experiment = build(*arguments, **keywords)
    assert zero_on_cpu.is_zero2(experiment.box.student_model)
    return experiment


train.build_experiment = checked
sys.exit(run.main(sys.argv[1:]))
