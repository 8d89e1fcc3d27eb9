"""Several runs of `distillens run` on gloo ranks, one after another: the imports are made once.

A plan is a JSON list of runs, each with `arguments`; `sharded` (FSDP2, or plain data parallelism);
`stop_after`, a number of kept states after which all ranks end as if killed; `cwd`, a folder for
each rank; `one_rank_reads`, that the others get no weights from files; `has_blocks`, false of a
teacher whose readout alone is loaded. Writes the exit codes, and what stderr got, to OUT as JSON; a
run that takes four minutes ends everything.

Usage: torchrun --standalone --nproc_per_node=2 sharded_runs.py PLAN OUT
"""

import contextlib
import faulthandler
import functools
import io
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import fsdp_on_cpu
from accelerate.state import AcceleratorState, PartialState

from distillens_plugin import run
from distillens_plugin.training import lifecycle, train

PLACE = Path.cwd()
build, save_state = train.build_experiment, lifecycle.save_state


class Stopped(BaseException):
    """Ends a run without any of its last acts."""


def start(
    arguments, *, sharded=True, stop_after=None, cwd=None, one_rank_reads=False, has_blocks=True
):
    """The exit code (None: stopped), and the lines of stderr."""
    for name, value in fsdp_on_cpu.FSDP2.items():
        if name == "ACCELERATE_USE_CPU" or sharded:
            os.environ[name] = value
        else:
            os.environ.pop(name, None)
    if sharded:
        os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = str(one_rank_reads).lower()
    AcceleratorState._reset_state(reset_partial_state=True)
    states = []

    def checked(*given, **keywords):
        experiment = build(*given, **keywords)
        assert fsdp_on_cpu.is_sharded(experiment.box.student_model) is sharded
        assert fsdp_on_cpu.is_sharded(experiment.box.teacher_model) is (sharded and has_blocks)
        return experiment

    def stopping(*given, **keywords):
        save_state(*given, **keywords)
        states.append(1)
        if len(states) == stop_after:
            raise Stopped

    train.build_experiment, lifecycle.save_state = checked, stopping
    os.chdir(cwd[int(os.environ["RANK"])] if cwd else PLACE)
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.suppress(Stopped):
        return run.main(arguments), errors.getvalue()
    return None, errors.getvalue()


fsdp_on_cpu.install()
# The second disk is looked at for as long as a slow network file system may need.
train.check_seen_by_all = functools.partial(train.check_seen_by_all, patience_s=1.0)
# The ranks do not meet a second time: the group of the first run serves all.
PartialState.destroy_process_group = lambda *_: None
results = []
for item in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
    faulthandler.dump_traceback_later(240, exit=True)
    results.append(start(**item))
    print(item["arguments"][0], results[-1], file=sys.stderr, flush=True)
if os.environ["RANK"] == "0":
    Path(sys.argv[2]).write_text(json.dumps(results), encoding="utf-8")
