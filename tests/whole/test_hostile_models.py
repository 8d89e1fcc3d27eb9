"""Broken and hostile model folders: each gives a model, or one line that names the file.

A fixed seed mutates the files of a small folder, one file at a time. The suite tries NUM_CASES of
them; DISTILLENS_HOSTILE_MODELS=2000 in the environment tries as many as it says.
"""

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_models import small_model
from transformers import AutoTokenizer

from distillens_plugin.commands import hooks as hooks_command
from eval_harness.backends.transformers import TransformersBackend
from eval_harness.errors import DistillensError
from eval_harness.shared.model_folder.identity import read_model

REPO = Path(__file__).resolve().parents[2]
NUM_CASES = int(os.environ.get("DISTILLENS_HOSTILE_MODELS", "120"))
LONGEST_S = 5.0
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 4096\n"
DEEP: Any = []
for _ in range(400):
    DEEP = [DEEP]
VALUES: list[Any] = [
    None, True, False, "x", "", "../../etc/passwd", "\0", "a" * 5000, -1, 0, 1, 7, 1.5, -0.5,
    float("inf"), float("nan"), 10**6, 10**7, 10**9, 2**31, 2**63, 10**400, [], {}, [None], ["x"],
    [1, 2], [-1], {"a": 1}, {"a": {"b": []}}, DEEP,
]  # fmt: skip
CONTENTS = [
    b"", b"{}", b"[]", b"null", b"1", b'"text"', b"{", b"\xff\xfe\x00", LFS, b"[" * 100_000,
    b'{"a":' * 50_000, b"1" * 5000, b'{"model_type": "gpt2"}', b"\0" * 4096, b"{}" * 10,
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> list[Path]:
    """Sound folders of two architectures, and one with its weights in shards."""
    tokenizer = AutoTokenizer.from_pretrained(REPO / "recipes/quickstart/tokenizer")
    made = []
    for kind, more in (("gpt2", {}), ("llama", {}), ("llama", {"max_shard_size": "30KB"})):
        folder = tmp_path_factory.mktemp(kind)
        model = small_model(kind, layers=2, width=16, vocab=2048)
        model.save_pretrained(folder, **more)
        tokenizer.save_pretrained(folder)
        made.append(folder)
    return made


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a JSON value."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from nodes(value[key])


def mutate_json(fields: Any, rng: random.Random) -> None:
    # The top is what libraries look at first.
    places = list(nodes(fields))
    top = [place for place in places if place[0] is fields]
    container, key = rng.choice(top if rng.random() < 0.6 else places)
    if rng.random() < 0.15:
        del container[key]
    else:
        container[key] = rng.choice(VALUES)


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(content))
    choice = rng.randrange(4)
    if choice == 0:
        return content[:place]
    if choice == 1:
        return content + bytes(rng.randrange(256) for _ in range(rng.randrange(1, 50)))
    if choice == 2:
        return rng.choice(CONTENTS)
    return content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]


def mutate_header(content: bytes, rng: random.Random) -> bytes:
    length = int.from_bytes(content[:8], "little")
    if rng.random() < 0.2:
        return (
            rng.choice([0, 1, length - 1, length + 1, 10**9, 2**63]).to_bytes(8, "little")
            + (content[8:])
        )
    header = json.loads(content[8 : 8 + length])
    mutate_json(header, rng)
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + content[8 + length :]


def mutate(folder: Path, rng: random.Random) -> str:
    """Changes one file; returns its name and what was done."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    configs = [path for path in files if "config" in path.name]
    file = rng.choice(configs if rng.random() < 0.5 else files)
    content = file.read_bytes()
    if rng.random() < 0.03:
        file.unlink()
        return f"{file.name} deleted"
    if rng.random() < 0.25:
        file.write_bytes(mutate_bytes(content, rng))
        return f"{file.name} bytes"
    if file.suffix == ".safetensors":
        file.write_bytes(mutate_header(content, rng))
        return f"{file.name} header"
    fields = json.loads(content)
    mutate_json(fields, rng)
    file.write_text(json.dumps(fields))
    return f"{file.name} fields"


def hooks(folder: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        hooks_command.run(argparse.Namespace(model=str(folder), revision=None))


def evaluate(folder: Path) -> None:
    facts = read_model(str(folder))
    TransformersBackend(facts, dtype="float32", device="cpu")


def outcome(work: Callable[[Path], None], folder: Path) -> str:
    """ "loaded", "refused", or what is wrong with the way it ended."""
    started = time.process_time()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            work(folder)
        ended = "loaded"
    except DistillensError as error:
        text = str(error)
        ended = "refused"
        if "\n" in text.strip() or len(text) > 1000:
            ended = f"not one line: {text!r}"
        elif str(folder) not in text:
            ended = f"names no file: {text}"
    except BaseException as error:
        ended = f"foreign {type(error).__name__}: {error}"
    seconds = time.process_time() - started
    return ended if seconds < LONGEST_S else f"took {seconds:.1f} s, {ended}"


def test_every_mutated_folder_gives_a_model_or_one_line(folders, tmp_path):
    rng = random.Random(13)
    bad, counts = [], Counter()
    for case in range(NUM_CASES):
        folder = tmp_path / f"case{case}"
        shutil.copytree(rng.choice(folders), folder)
        what = mutate(folder, rng)
        for work in (hooks, evaluate):
            ended = outcome(work, folder)
            counts[ended if ended in ("loaded", "refused") else "bad"] += 1
            if ended not in ("loaded", "refused"):
                bad.append(f"case {case}, {what}, {work.__name__}: {ended}")
        shutil.rmtree(folder)
    assert not bad, f"{len(bad)} of {2 * NUM_CASES}:\n" + "\n".join(bad[:40])
    assert counts["refused"] > 0.2 * NUM_CASES
    assert counts["loaded"] > 0.2 * NUM_CASES
