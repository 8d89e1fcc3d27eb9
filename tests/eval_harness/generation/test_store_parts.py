"""Parts of a store that other processes have written."""

import dataclasses

import pytest

from eval_harness.errors import DistillensError, RunFailure
from eval_harness.generation.evaluate import run_evaluation
from eval_harness.generation.processes import Processes
from eval_harness.generation.request import make_settings
from eval_harness.generation.store import open_store
from eval_harness.results.file_models import AnswerRow

SETTINGS = {"model": "m"}


class Two(Processes):
    """The first of two processes, of which the other one never does anything."""

    size = local_size = 2


@pytest.fixture
def path(tmp_path):
    return tmp_path / "answers_small_0123.jsonl"


def opened(path, rank=0):
    return open_store(path, SETTINGS, AnswerRow, rank=rank)


def answer(text):
    return {"text": text, "num_tokens": 1, "finish_reason": "stop"}


def texts(store) -> dict[str, str]:
    return {key[0]: row["text"] for key, row in store.rows.items()}


def test_a_part_knows_the_rows_that_were_there_and_its_own_come_to_the_main_file(path):
    main = opened(path)
    main.add(("0", "10"), answer("a"))
    parts = [opened(path, rank) for rank in (1, 2)]
    for part in parts:
        assert texts(part) == {"0": "a"}
    parts[0].add(("1", "10"), answer("b"))
    parts[1].add(("2", "10"), answer("c\u2028d"))
    main.add(("3", "10"), answer("e"))
    main.take_parts()
    for store in [main, *parts]:
        store.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    again = opened(path)
    again.close()
    assert texts(again) == {"0": "a", "1": "b", "2": "c\u2028d", "3": "e"}


def test_parts_of_a_killed_run_are_taken_in_without_their_torn_lines_and_twice_is_once(path):
    main = opened(path)
    part = opened(path, 1)
    part.add(("1", "10"), answer("b"))
    part.add(("2", "10"), answer("c"))
    part.close()
    main.add(("1", "10"), answer("b"))  # it was killed before it could remove the part
    main.close()
    content = part.path.read_bytes()
    part.path.write_bytes(content[:-5])
    again = opened(path)
    again.close()
    assert texts(again) == {"1": "b"}
    assert not part.path.exists()
    assert path.read_bytes().count(b"\n") == 2


def test_parts_of_other_settings_and_of_other_tasks_stay(path):
    other = path.with_name("answers_small_2_0123.rank1.jsonl")
    other.write_bytes(b"theirs")
    opened(path).close()
    assert other.read_bytes() == b"theirs"
    part = path.with_name("answers_small_0123.rank1.jsonl")
    part.write_bytes(b"no store\n")
    with pytest.raises(DistillensError, match=r"rank1\.jsonl:1:"):
        opened(path)
    assert part.read_bytes() == b"no store\n"


def test_a_process_that_does_not_see_the_main_file_is_told_why(path):
    with pytest.raises(DistillensError, match="that all machines share"):
        opened(path, 1)
    assert not path.exists()


def settings_of(folder, benchmark, out, processes, backend="hf", **model_args):
    settings = make_settings(
        backend=backend,
        model_args={"pretrained": str(folder), **model_args},
        tasks="small",
        include_path=benchmark,
        output_path=out,
        gen_kwargs={"max_gen_toks": 2},
        seeds=(1,),
        batch_size=4,
        limit=12,
    )
    return dataclasses.replace(settings, processes=processes)


def test_rows_that_another_process_should_have_written_are_missed(
    small_llama, small_benchmark, tmp_path
):
    """As on machines that do not share the folder."""
    settings = settings_of(small_llama, small_benchmark, tmp_path / "out", Two(), device="cpu")
    with pytest.raises(RunFailure, match=r"8 rows of other processes are not there; is the output"):
        run_evaluation(settings)
    assert not list((tmp_path / "out").glob("*/results_*"))


@pytest.mark.parametrize(
    ("backend", "advice"),
    [("vllm", "give data_parallel_size=N"), ("server", "give num_concurrent=N")],
)
def test_backends_that_spread_by_themselves_need_no_launcher(
    backend, advice, small_llama, small_benchmark, tmp_path
):
    settings = settings_of(small_llama, small_benchmark, tmp_path / "out", Two(), backend)
    with pytest.raises(DistillensError, match=f"--model {backend} under a launcher of 2.*{advice}"):
        run_evaluation(settings)
    assert not (tmp_path / "out").exists()
