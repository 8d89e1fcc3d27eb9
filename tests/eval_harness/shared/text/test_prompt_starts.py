"""Stops of a template: where another prompt of it begins."""

import pytest

from eval_harness.shared.text.answers import cut_answer
from eval_harness.shared.text.prompt_starts import named_starts, prompt_starts
from eval_harness.shared.text.template_table import TEMPLATES
from eval_harness.shared.text.templates import render_prompt


@pytest.mark.parametrize("input", ["", "of Peru"])
@pytest.mark.parametrize("template", ["alpaca", "question", "qwen", "Q: {instruction}\nA:"])
def test_an_answer_ends_where_another_prompt_of_the_template_begins(template, input):
    prompt = render_prompt(template, "The capital?", input)
    until = prompt_starts(template)
    assert cut_answer(f"It is Lima.\n\n{prompt}Quito", until=until) == "It is Lima."
    # Special tokens are not decoded.
    bare = prompt.replace("<|im_start|>", "").replace("<|im_end|>", "")
    assert cut_answer(f"It is Lima.\n{bare}Quito", until=until) == "It is Lima."


@pytest.mark.parametrize(
    ("template", "starts"),
    [
        ("question", ("\nQuestion:",)),
        ("chat", ()),
        ("{instruction}", ()),
        ("1. {instruction}", ()),
        ("- {instruction}\n", ()),
        ("Please {instruction}", ()),
        ("Context: {input}\nQuestion: {instruction}\nAnswer:", ("\nContext:",)),
        ("[INST] {instruction} [/INST]", ("[INST]",)),
    ],
)
def test_only_what_tells_a_prompt_from_an_answer_is_a_stop(template, starts):
    assert prompt_starts(template) == starts


def test_the_starts_of_all_names_are_the_default_of_the_cut():
    assert set(named_starts()) == {
        start for name in TEMPLATES for start in prompt_starts(name)
    }  # fmt: skip
    assert "\n### Instruction:" in named_starts()
