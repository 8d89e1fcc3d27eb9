"""Chat templates: one date for every day, and one line for each way in which they can fail."""

import datetime
import subprocess
import sys

import pytest
import transformers.utils.chat_template_utils as library
from small_tokenizers import CHATML, byte_level

from eval_harness.errors import DistillensError
from eval_harness.shared.text.chat_templates import (
    TEMPLATE_DATE,
    chat_prompt,
    literal_text,
    reads_the_date,
    render_chat,
)
from eval_harness.shared.text.tokenisation import TextEncoder

QUESTION = [{"role": "user", "content": "say"}]
# As Llama 3.2's: the caller's date, else the clock's, else its own.
LLAMA = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    '{%- set date_string = strftime_now("%d %b %Y") %}{%- else %}'
    '{%- set date_string = "26 Jul 2024" %}{%- endif %}{%- endif %}'
    "Today Date: {{ date_string }}\n" + CHATML
)


def tokenizer_with(template):
    made = byte_level()
    made.chat_template = template
    return made


@pytest.fixture
def on_day(monkeypatch):
    """Another day for the library's own clock."""

    def set_day(day):
        class Day(datetime.datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.datetime.combine(day, datetime.time())

        monkeypatch.setattr(library, "datetime", Day)

    return set_day


@pytest.mark.parametrize(
    "template",
    [
        "{{ strftime_now('%d %b %Y') }}|" + CHATML,
        "\n  {% set day = strftime_now(format='%A, %-d %B %y %H:%M %j %U %%d %%') %}{{ day }}"
        + CHATML,
        "{% macro today() %}<{{ strftime_now('%F') }}>{% endmacro %}{{ today() }}" + CHATML,
        "{%- if strftime_now is defined %}yes{% endif %}" + CHATML,
        LLAMA,
    ],
)
def test_every_day_has_the_prompt_of_one_day(template, on_day):
    tokenizer = tokenizer_with(template)
    found = set()
    for day in (datetime.date(2026, 11, 26), datetime.date(2026, 12, 7)):
        on_day(day)
        found.add(render_chat(tokenizer, QUESTION, add_generation_prompt=True))
    # What the library itself gives on that day.
    on_day(TEMPLATE_DATE.date())
    theirs = tokenizer.apply_chat_template(QUESTION, tokenize=False, add_generation_prompt=True)
    assert found == {theirs}
    assert reads_the_date(tokenizer)


def test_the_date_does_not_depend_on_the_process(tmp_path):
    tokenizer_with(LLAMA).save_pretrained(tmp_path)
    code = (
        "import datetime, sys, transformers.utils.chat_template_utils as library\n"
        "from transformers import AutoTokenizer\n"
        "from eval_harness.shared.text.templates import render_prompt\n"
        "class Day(datetime.datetime):\n"
        "    @classmethod\n"
        "    def now(cls, tz=None): return datetime.datetime(2026, 11, int(sys.argv[2]))\n"
        "library.datetime = Day\n"
        "print(render_prompt('chat', 'a', tokenizer=AutoTokenizer.from_pretrained(sys.argv[1])))\n"
    )
    texts = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path), day], capture_output=True, check=True
        ).stdout
        for day in ("26", "27")
    ]
    assert texts[0] == texts[1]
    assert b"26 Jul 2024" in texts[0]


def test_a_template_without_a_clock_is_rendered_as_it_stands():
    assert not reads_the_date(byte_level())
    assert render_chat(byte_level(), QUESTION, add_generation_prompt=True) == (
        "<|im_start|>user\nsay<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}{{ m['content'] }", "cannot be rendered for the messages user"),
        (
            "{{ raise_exception('a system message\\nmust come first') }}",
            r"\(TemplateError: a system message\)",
        ),
        ("{{ messages[0]['text']['x'] }}", "cannot be rendered"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("Answer: ", "leaves the user's message out"),
        (
            CHATML.partition("{% if add")[0],
            r"ignores add_generation_prompt, .*'<\|im_start\|>assistant' is missing",
        ),
        (
            "{% if messages[-1]['role'] == 'assistant' %}{{ raise_exception('no answers') }}"
            "{% endif %}" + CHATML,
            "for the messages user, assistant",
        ),
    ],
)
def test_a_template_that_does_not_work_is_refused_in_one_line(template, words):
    tokenizer = tokenizer_with(template)
    tokenizer.name_or_path = "my/model"
    with pytest.raises(DistillensError, match=words) as caught:
        TextEncoder(tokenizer, template="chat")
    assert "\n" not in str(caught.value)
    assert "the chat template of 'my/model'" in str(caught.value)


def test_a_template_that_needs_no_opening_passes():
    mistral = (
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    tokenizer = tokenizer_with(mistral)
    assert chat_prompt(" a ", tokenizer) == ("[INST] ", " a ", " [/INST]")
    assert TextEncoder(tokenizer, template="chat").end_ids[-1] == tokenizer.eos_token_id


def test_several_templates_need_a_default_one():
    tokenizer = tokenizer_with({"default": CHATML, "tools": "x"})
    assert TextEncoder(tokenizer, template="chat").end_ids
    with pytest.raises(DistillensError, match="needs a tokenizer with a chat template"):
        TextEncoder(tokenizer_with({"tools": CHATML, "rag": CHATML}), template="chat")


def test_a_message_is_found_where_its_frame_changes_with_it():
    changing = "{{ messages[0]['content'] | length }}:" + CHATML
    before, message, after = chat_prompt("a" * 12, tokenizer_with(changing))
    assert before.startswith("12:")
    assert (message, after[:10]) == ("a" * 12, "<|im_end|>")
    shouting = changing.replace("{{ m['content'] }}", "{{ m['content'] | upper }}")
    with pytest.raises(DistillensError, match="changes the message"):
        chat_prompt("say it", tokenizer_with(shouting))


def test_the_text_of_a_template_is_its_data_and_its_strings():
    text = literal_text("<a>{% if x == '<b>' %}{{ '<c>' ~ y }}{# <d> #}{% endif %}")
    assert [sign in text for sign in ("<a>", "<b>", "<c>", "<d>", "==")] == [True] * 3 + [False] * 2
    assert literal_text("{% if") == ""
