"""Tables on pages and in Markdown, and templates that refuse what they do not know."""

import jinja2
import pytest

from eval_harness.shared.pages.markdown import cell, table
from eval_harness.shared.pages.render import render
from eval_harness.shared.pages.tables import Grid


def test_columns_of_numbers_are_known():
    numbers = ["1", "-1,234.5", "+0.03", "12 %", "1e-05", "N/A", "", "20.1 [19.0,\u00a021.0]"]
    intervals = ["[+0.10,\u00a0+2.00]", "N/A"]
    words = ["7 steps", "1", "v1.2b"]
    for column, is_numeric in (
        (numbers, True),
        (intervals, True),
        (words, False),
        (["", "-"], False),
    ):
        assert Grid("t", ["a"], [[text] for text in column]).numeric == [is_numeric]


def test_markdown_shows_text_as_it_is_and_marks_rows():
    assert cell("a|b\n*c* <d> [e](f)") == r"a\|b \*c\* \<d\> \[e\](f)"
    assert cell(" 1\u00a0[0,\u00a02]  x ") == "1\u00a0\\[0,\u00a02\\] x"
    lines = table(Grid("T", ["a", "b"], [["1", "2"], ["3", "4"]], (1,), "Read it."))
    assert lines == [
        *("### T", "", "| a | b |", "| --- | --- |", "| 1 | 2 |", "| 3 | **4** |"),
        *("", "Read it.", ""),
    ]


def test_a_template_refuses_values_that_are_missing():
    with pytest.raises(jinja2.UndefinedError, match="title"):
        render("sample_pages", "page.html.j2")
