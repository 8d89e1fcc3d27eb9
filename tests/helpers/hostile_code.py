"""Files whose code leaves a marker where it runs, and the commands that meet them."""

import json
import shutil
from pathlib import Path

import yaml
from watched import call

import eval_harness.cli

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


def evaluate(model, *more, args=""):
    rows = Path(__file__).parents[2] / "eval_harness" / "benchmarks" / "data" / "gsm8k.jsonl"
    return [
        *("run", "--model", "hf", "--model_args", f"pretrained={model}{args}", "--limit", "1"),
        *("--tasks", "gsm8k", "--data", f"gsm8k={rows}", "--output_path", "evaluated"),
        *("--protocol", "greedy", "--gen_kwargs", "max_gen_toks=2", "--device", "cpu", *more),
    ]


class Pickled:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return (open, (self.marker, "w"))
