"""Prompts follow the reference letter by letter, and cutting leaves the template whole."""

import subprocess
import sys

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from eval_harness.errors import DistillensError
from eval_harness.shared.text.prompt_starts import prompt_starts
from eval_harness.shared.text.template_table import (
    TEMPLATES,
    check_template,
    register_template,
    template_identity,
)
from eval_harness.shared.text.templates import cut_prompt, prompt_pieces, render_prompt

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\nAdd.\n\n### Response:\n"
)
ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
)
CHAT = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SHORT = "Question: {instruction}\nAnswer:"


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, so that lengths can be counted by hand."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    made.chat_template = CHAT
    return made


def test_alpaca_is_the_reference_text():
    assert render_prompt("alpaca", "Add.") == ALPACA
    assert render_prompt("alpaca", "Add.", "1 2") == ALPACA_INPUT


def test_qwen_is_alpaca_between_marks():
    expected = f"<|im_start|>{ALPACA_INPUT}<|im_end|><|im_start|>Assistant:"
    assert render_prompt("qwen", "Add.", "1 2") == expected


def test_question_is_short():
    assert render_prompt("question", "Add.") == "Question: Add.\nAnswer:\n"
    assert render_prompt("question", "Add.", "1 2") == "Question: Add.\n1 2\nAnswer:\n"


def test_chat_uses_the_tokenizers_own_template(tokenizer):
    rendered = render_prompt("chat", " Add.", "1 2", tokenizer=tokenizer)
    assert rendered == "<user>Add.\n1 2\n<assistant>"


def test_chat_without_a_chat_template_is_refused(tokenizer):
    bare = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    for unusable in (None, bare):
        with pytest.raises(DistillensError, match="needs a tokenizer with a chat template"):
            render_prompt("chat", "Add.", tokenizer=unusable)


def test_format_strings_fill_fields_and_never_lose_an_input():
    assert render_prompt("{input}|{instruction}:", "a", "b") == "b|a:"
    assert render_prompt("{input}|{instruction}:", "a") == "|a:"
    assert render_prompt(SHORT, "a", "b") == "Question: a\nb\nAnswer:"
    assert render_prompt("{{json}} {instruction}", "{x} {input}", "y") == "{json} {x} {input}\ny"


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("alpacca", "did you mean 'alpaca'"),
        ("zzz", "expected alpaca, qwen, question, chat, or a format string"),
        ("{input}", "has no {instruction}"),
        ("{instruction} {answer}", "field {answer}"),
        ("{instruction.__class__}", "field {instruction.__class__}"),
        ("{instruction!r}", "expected only"),
        ("{instruction:>10}", "expected only"),
        ("{instruction} {", "double every literal brace"),
        ("{instruction} {}", "field {}"),
    ],
)
def test_bad_templates_are_refused(template, words):
    with pytest.raises(DistillensError) as caught:
        check_template(template)
    assert words in str(caught.value)
    with pytest.raises(DistillensError):
        render_prompt(template, "a")


def test_known_templates_pass_the_check():
    for template in (*TEMPLATES, SHORT):
        check_template(template)


@pytest.mark.parametrize("template", [*TEMPLATES, SHORT, "{input}\n{instruction}\n"])
@pytest.mark.parametrize("fields", [("Add.", ""), ("Add.", "numbers"), ("Add all.", "1"), ("", "")])
def test_pieces_join_to_the_prompt(template, fields, tokenizer):
    prefix, body, suffix = prompt_pieces(template, *fields, tokenizer=tokenizer)
    assert prefix + body + suffix == render_prompt(template, *fields, tokenizer=tokenizer)
    if template in ("alpaca", "qwen"):
        assert body == max(fields, key=len)


def cut(tokenizer, template, instruction, input="", *, max_tokens):
    ids, was_cut = cut_prompt(
        template, instruction, input, max_tokens=max_tokens, tokenizer=tokenizer
    )
    return tokenizer.decode(ids), was_cut


def test_a_prompt_within_the_limit_is_untouched(tokenizer):
    assert cut(tokenizer, SHORT, "abc", max_tokens=21) == ("Question: abc\nAnswer:", False)


def test_the_body_loses_its_end_and_the_template_stays(tokenizer):
    assert cut(tokenizer, SHORT, "abcdef", max_tokens=21) == ("Question: abc\nAnswer:", True)
    text, was_cut = cut(tokenizer, "alpaca", "Add.", "12" * 300, max_tokens=250)
    assert was_cut
    assert len(text) == 250
    assert text.startswith(ALPACA_INPUT.split("1 2")[0])
    assert text.endswith("1\n\n### Response:\n")


def test_a_longer_instruction_is_cut_before_the_input(tokenizer):
    text, _ = cut(tokenizer, "{instruction}|{input}:", "a" * 50, "in", max_tokens=10)
    assert text == "aaaaaa|in:"


def test_both_are_cut_where_one_is_not_enough(tokenizer):
    text, was_cut = cut(tokenizer, "{instruction}|{input}:", "abcdefgh", "i" * 20, max_tokens=7)
    assert (text, was_cut) == ("abcde|:", True)


@pytest.mark.parametrize("template", [SHORT, "chat", "alpaca", "{instruction}|{input}"])
@pytest.mark.parametrize("fields", [("a", ""), (" " * 300, " " * 400), ("é" * 500, "🙂" * 300)])
def test_every_limit_is_kept(template, fields, tokenizer):
    fixed = len(tokenizer(render_prompt(template, "", tokenizer=tokenizer))["input_ids"])
    for max_tokens in (fixed, fixed + 1, fixed + 37):
        ids, _ = cut_prompt(template, *fields, max_tokens=max_tokens, tokenizer=tokenizer)
        assert len(ids) <= max_tokens


def test_a_template_that_cannot_fit_is_refused(tokenizer):
    with pytest.raises(DistillensError, match="alone takes 18 tokens, but a prompt may have 17"):
        cut(tokenizer, SHORT, "abc", max_tokens=17)


def test_a_very_long_body_is_cut_with_few_tokenizer_calls(tokenizer):
    calls = []

    class Counting:
        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, texts, **options):
            calls.append(sum(map(len, texts)))
            return tokenizer(texts, **options)

    ids, was_cut = cut_prompt(SHORT, "word " * 100_000, max_tokens=64, tokenizer=Counting())
    assert was_cut
    assert len(ids) == 64
    assert sum(calls) < 520_000


def test_lone_surrogates_can_be_tokenised(tokenizer):
    assert cut(tokenizer, SHORT, "\ud800", max_tokens=99)[0] == "Question: \ufffd\nAnswer:"


def test_real_tokenizers_cut_to_the_limit(shared):
    gpt2 = PreTrainedTokenizerFast(
        tokenizer_file=str(shared / "tokenizers" / "gpt2" / "tokenizer.json")
    )
    ids, was_cut = cut_prompt("alpaca", "Say it. " * 400, max_tokens=256, tokenizer=gpt2)
    assert was_cut
    assert 250 < len(ids) <= 256
    assert gpt2.decode(ids).endswith("\n\n### Response:\n")


def test_import_is_light():
    code = (
        "import sys, eval_harness.shared.files.jsonl;"
        "import eval_harness.shared.text.templates as t; t.check_template('alpaca');"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'tokenizers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def own_template():
    """A name of the user's own, for one test."""
    register_template("exam", "Q: {instruction}\nA:", "Q: {instruction}\n({input})\nA:")
    yield "exam"
    del TEMPLATES["exam"]


def test_a_registered_template_is_used_by_its_name(own_template):
    check_template(own_template)
    assert render_prompt(own_template, "Add.") == "Q: Add.\nA:"
    assert render_prompt(own_template, "Add.", "1 2") == "Q: Add.\n(1 2)\nA:"
    assert prompt_starts(own_template) == ("\nQ:",)


def test_an_input_that_a_registered_template_has_no_place_for_follows_the_instruction(own_template):
    register_template(own_template, "Do: {instruction}\n")
    assert render_prompt(own_template, "Add.", "1 2") == "Do: Add.\n1 2\n"


def test_a_fingerprint_tells_two_templates_of_one_name_apart(own_template):
    first = template_identity(own_template)
    register_template(own_template, "Do: {instruction}\n")
    assert template_identity(own_template) != first
    assert template_identity("alpaca") == "alpaca"
    assert template_identity("{instruction}!") == "{instruction}!"


@pytest.mark.parametrize(
    ("name", "form", "reason"),
    [
        ("alpaca", "{instruction}", "is built in"),
        ("a{b}", "{instruction}", "without braces"),
        ("mine", "Answer:", "has no {instruction}"),
        ("mine", "{instruction} {seed}", "has the field {seed}"),
    ],
)
def test_what_cannot_be_registered_is_refused(name, form, reason):
    before = dict(TEMPLATES)
    with pytest.raises(DistillensError, match=reason):
        register_template(name, form)
    assert before == TEMPLATES
