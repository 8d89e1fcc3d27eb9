"""`distillens run` with FSDP2 on a CPU: the arguments are the command's.

Asserts, once the experiment is built, that the blocks of both models are sharded. (A teacher that
is not to be: FSDP_TEST_TEACHER=whole.)

Usage: torchrun --standalone --nproc_per_node=2 fsdp_run.py RECIPE --output_dir FOLDER ...
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import fsdp_on_cpu

from distillens_plugin import run
from distillens_plugin.training import train

fsdp_on_cpu.install()
build = train.build_experiment


def checked(*arguments, **keywords):
    experiment = build(*arguments, **keywords)
    assert fsdp_on_cpu.is_sharded(experiment.box.student_model), "the student is not sharded"
    teacher = getattr(experiment.box, "teacher_model", None)
    if teacher is not None:
        whole = os.environ.get("FSDP_TEST_TEACHER") == "whole"
        assert fsdp_on_cpu.is_sharded(teacher) is not whole, "the teacher"
    return experiment


train.build_experiment = checked
sys.exit(run.main(sys.argv[1:]))
