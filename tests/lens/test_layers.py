"""Layer pairs: lists, automatic pairs, module paths, and what is refused."""

import pytest

from distillens_plugin.lens.layers import auto_layers, layer_to_hook, resolve_pairs
from eval_harness.errors import DistillensError

# The paper's table: (blocks, layers) of each model.
PAPER = {
    "GPT-2 120M": (12, [2, 4, 6, 8, 10]),
    "GPT-2 340M": (24, [4, 8, 12, 16, 20]),
    "GPT-2 1.5B": (48, [8, 16, 24, 32, 40]),
    "TinyLlama 1.1B": (22, [4, 7, 11, 15, 18]),
    "Qwen2.5 1.5B": (28, [6, 11, 17, 22]),
    "Qwen2.5 3B": (36, [7, 14, 22, 29]),
}


def refusal(layers, student_layers=12, teacher_layers=48, **more) -> str:
    with pytest.raises(DistillensError) as caught:
        resolve_pairs(layers, student_layers, teacher_layers, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_lists_are_read_as_pairs():
    layers = {"student": [2, 4, 12], "teacher": [8, 0, 48]}
    assert resolve_pairs(layers, 12, 48) == [(2, 8), (4, 0), (12, 48)]


def test_module_paths_may_stand_in_for_numbers():
    layers = {"student": ["transformer.h.3.mlp", 4], "teacher": [8, "transformer.ln_f"]}
    assert resolve_pairs(layers, 12, 48) == [("transformer.h.3.mlp", 8), (4, "transformer.ln_f")]


@pytest.mark.parametrize("model", PAPER)
def test_automatic_layers_are_the_papers(model):
    blocks, layers = PAPER[model]
    assert auto_layers(len(layers), blocks) == layers


def test_automatic_layers_differ_from_the_paper_for_llama_7b_alone():
    # The paper has 5 10 16 21 26 there; the shipped recipe writes its list out.
    assert auto_layers(5, 32) == [5, 11, 16, 21, 27]


def test_automatic_pairs_join_both_depths():
    assert resolve_pairs({"auto": 5}, 12, 48) == [(2, 8), (4, 16), (6, 24), (8, 32), (10, 40)]


@pytest.mark.parametrize("blocks", range(1, 60))
def test_as_many_automatic_pairs_as_the_error_says_are_distinct(blocks):
    message = refusal({"auto": blocks + 1}, blocks, 200)
    most = int(message.split("at most ")[1].split()[0])
    layers = [student for student, _ in resolve_pairs({"auto": most}, blocks, 200)]
    assert len(set(layers)) == most >= max(1, blocks - 1)
    assert set(layers) <= set(range(1, blocks + 1))


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_too_many_automatic_pairs_name_the_shallower_model(side):
    depths = {"student": 30, "teacher": 30, side: 4}
    message = refusal(
        {"auto": 9}, depths["student"], depths["teacher"], where="r.yaml: lens.layers"
    )
    assert message.startswith("r.yaml: lens.layers.auto = 9, but the " + side + " has 4 blocks")


def test_a_layer_out_of_range_names_the_place_and_the_range():
    message = refusal(
        {"student": [2, 4, 13], "teacher": [8, 16, 24]}, where="recipes/gpt2.yaml: lens"
    )
    assert message == (
        "recipes/gpt2.yaml: lens.student[2] = 13, but the student has layers 0 to 12"
    )
    message = refusal({"student": [2], "teacher": [-1]})
    assert message == "layers.teacher[0] = -1, but the teacher has layers 0 to 48"


def test_lists_of_different_length_are_refused():
    message = refusal({"student": [2, 4], "teacher": [8]})
    assert "student has 2 layers and teacher 1" in message


def test_a_pair_given_twice_is_refused_but_a_layer_may_be_shared():
    message = refusal({"student": [2, 4, 2], "teacher": [8, 16, 8]})
    assert "pair 2 (student 2, teacher 8) repeats pair 0" in message
    assert resolve_pairs({"student": [2, 2], "teacher": [8, 16]}, 12, 48) == [(2, 8), (2, 16)]


@pytest.mark.parametrize("entry", [1.0, True, None, "3", "-1", "", [2]])
def test_other_entries_are_refused(entry):
    message = refusal({"student": [2, entry], "teacher": [8, 16]})
    assert message.startswith(f"layers.student[1] = {entry!r}, expected a layer number")


def test_pairs_by_divergence_are_those_that_were_measured():
    given = {"auto": 2, "by": "divergence", "rows": 8}
    measured = {"student": [1, 3], "teacher": [2, 7]}
    assert resolve_pairs({**given, "measured": measured}, 4, 8) == [(1, 2), (3, 7)]
    assert resolve_pairs({"auto": 5, "by": "depth"}, 12, 48)[0] == (2, 8)
    assert "choose_layers(student, teacher, batches, 2)" in refusal(given)
    assert "layers.by = 'width', expected depth or divergence" in refusal(
        {"auto": 2, "by": "width"}
    )
    assert "measured.student[1] = 5, but the student has layers 0 to 4" in refusal(
        {**given, "measured": {"student": [1, 5], "teacher": [2, 7]}}, 4, 8
    )


@pytest.mark.parametrize("count", [0, -1, True, 2.0, "3", None])
def test_other_numbers_of_automatic_pairs_are_refused(count):
    assert f"layers.auto = {count!r}" in refusal({"auto": count})


@pytest.mark.parametrize(
    "layers",
    [{}, {"student": [1]}, {"auto": 2, "student": [1], "teacher": [1]}, [1, 2], None, {"a": 1}],
)
def test_other_forms_are_refused(layers):
    assert "expected either auto: K, or the two lists" in refusal(layers)


@pytest.mark.parametrize("entries", [[], "2, 4", 3, None])
def test_a_side_that_is_no_list_is_refused(entries):
    assert f"layers.student = {entries!r}, expected a list" in refusal(
        {"student": entries, "teacher": [8]}
    )


def test_layers_become_hooks():
    assert layer_to_hook(0, "transformer.h") == ("input", "transformer.h.0")
    assert layer_to_hook(1, "transformer.h") == ("output", "transformer.h.0")
    assert layer_to_hook(12, "transformer.h") == ("output", "transformer.h.11")
    assert layer_to_hook("transformer.ln_f", "transformer.h") == ("output", "transformer.ln_f")
