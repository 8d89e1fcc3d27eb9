"""How much memory a process takes while it loads a teacher: whole, in pieces, read by one process.

    python benchmarks/start_memory.py [--gb 1.2] [--processes 2]

The teacher is the quickstart's, scaled up: more blocks of eight times the width, random. It is
loaded as a run loads it, on the CPU, through accelerate's FSDP2 (which tests/helpers/fsdp_on_cpu.py
turns on there). The table shows each process's peak of resident memory above what it had before,
and what it holds at the end, in MB; files that it has mapped count.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

REPO = Path(__file__).resolve().parent.parent
WAYS = {
    "whole on every process": {},
    "in pieces, all processes read": {"FSDP_CPU_RAM_EFFICIENT_LOADING": "false"},
    "in pieces, one process reads": {"FSDP_CPU_RAM_EFFICIENT_LOADING": "true"},
}


def make_teacher(folder: Path, gb: float) -> None:
    """Saves the quickstart's teacher with wider and more blocks, `gb` large in float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(REPO / "recipes" / "quickstart" / "teacher")
    config.hidden_size, config.intermediate_size = 1536, 4096
    config.num_attention_heads = config.num_key_value_heads = 16
    config.head_dim = config.hidden_size // config.num_attention_heads
    block = 4 * config.hidden_size**2 + 3 * config.hidden_size * config.intermediate_size
    config.num_hidden_layers = max(1, round(gb * 1e9 / 4 / block))
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def resident_mb() -> float:
    """Resident memory of this process."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError("/proc/self/status has no VmRSS")


class Peak:
    """The largest resident memory while it is open, looked at every 5 ms."""

    def __enter__(self) -> "Peak":
        self.mb = resident_mb()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.005):
            self.mb = max(self.mb, resident_mb())


def measure(folder: Path) -> None:
    """In a process of its own: loads the teacher and prints what it took."""
    sys.path.insert(0, str(REPO / "tests" / "helpers"))
    import fsdp_on_cpu  # type: ignore[import-not-found]
    from accelerate import Accelerator
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    from distillens_plugin.experiment.readers import anatomy_on_all
    from distillens_plugin.models.loading import load_teacher
    from distillens_plugin.recipe.schema.models import TeacherSpec
    from distillens_plugin.sharding.launch import launch_of
    from distillens_plugin.sharding.units import make_blocks_the_units

    fsdp_on_cpu.install()
    accelerator = Accelerator()
    launch = launch_of(os.environ)
    before = resident_mb()
    with Peak() as peak:
        teacher = load_teacher(TeacherSpec(name_or_path=str(folder)))
        anatomy_on_all(teacher, accelerator, one_rank_reads=launch.one_rank_reads)
        if launch.shards_models:
            make_blocks_the_units(accelerator, teacher)
            fsdp2_prepare_model(accelerator, teacher)
    found = [round(peak.mb - before), round(resident_mb() - before)]
    print("MEASURED", accelerator.process_index, json.dumps(found), flush=True)
    accelerator.wait_for_everyone()
    accelerator.end_training()


def run(folder: Path, processes: int, settings: dict[str, str]) -> dict[int, list[int]]:
    """(peak, end) of each process."""
    sys.path.insert(0, str(REPO / "tests" / "helpers"))
    from fsdp_on_cpu import FSDP2  # type: ignore[import-not-found, unused-ignore]

    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc_per_node={processes}", __file__, "--measure", str(folder)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    environment |= {**FSDP2, **settings} if settings else {}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    lines = [line.split(" ", 2) for line in done.stdout.splitlines() if "MEASURED" in line]
    return {int(rank): json.loads(numbers) for _, rank, numbers in lines}


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--gb", type=float, default=1.2)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments.measure)
        return
    with TemporaryDirectory() as folder:
        make_teacher(Path(folder), arguments.gb)
        size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors")) / 1e6
        print(f"teacher of {size:,.0f} MB, {arguments.processes} processes: peak / end in MB")
        for way, settings in WAYS.items():
            found = run(Path(folder), arguments.processes, settings)
            each = ", ".join(f"{peak:,} / {end:,}" for _, (peak, end) in sorted(found.items()))
            print(f"{way}: {each}", flush=True)


if __name__ == "__main__":
    main()
