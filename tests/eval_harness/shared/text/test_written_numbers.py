"""Numbers as people write them: exact values, and what is not one number."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_harness.shared.text.number_phrases import Unclear, number_phrases
from eval_harness.shared.text.plain_numbers import plain_numbers


def readings(text):
    return [phrase.reading for phrase in number_phrases(plain_numbers(text))]


def grouped(digits, sizes, mark):
    """The digits in groups of these sizes from the end; the last size repeats."""
    groups = []
    while len(digits) > sizes[0]:
        groups.insert(0, digits[-sizes[0] :])
        digits, sizes = digits[: -sizes[0]], sizes[1:] or sizes
    return mark.join([digits, *groups])


WHOLE = {
    "plain": str,
    "commas": lambda n: grouped(str(n), [3], ","),
    "India": lambda n: grouped(str(n), [3, 2], ","),
    "Switzerland": lambda n: grouped(str(n), [3], "'"),
    "narrow spaces": lambda n: grouped(str(n), [3], "\u202f"),
    "LaTeX commas": lambda n: grouped(str(n), [3], "{,}"),
    "LaTeX spaces": lambda n: grouped(str(n), [3], "\\,"),
    "closed LaTeX commas": lambda n: grouped(str(n), [3], ",\\!"),
    "full-width": lambda n: "".join(chr(ord(digit) + 0xFEE0) for digit in str(n)),
    "Arabic": lambda n: "".join(chr(ord(digit) - 48 + 0x660) for digit in str(n)),
    "scientific": lambda n: f"{n}e0",
    "hundredths": lambda n: f"{n}00e-2",
    "power of ten": lambda n: rf"{n} \times 10^{{0}}",
}
AROUND = [
    "{}", "{}.", "**{}**", "*{}*", "`{}`", "${}$", r"\({}\)", r"\boxed{{{}}}", r"\text{{{}}}",
    "({})", r"\${}", "€{}", "US${}", "{} €", "{}%", r"{}\%", "{} dollars", "{} cm^2",
    "{} m\u00b2", "{}m2", r"{}\text{{ cm}}^2", "{}\u00b0", r"{}^\circ",
    "x = {}", "答案是{}个", "{}...",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10**12),
    st.sampled_from(sorted(WHOLE)),
    st.sampled_from(AROUND),
    st.sampled_from(["", "-", "\u2212", "\u2013", "\uff0d", "+"]),
)
def test_a_whole_number_reads_back_from_each_form(number, form, around, sign):
    text = around.format(sign + WHOLE[form](number))
    assert readings(text) == [number if sign in ("", "+") else -number], text


FRACTIONS = ["{}/{}", r"\frac{{{}}}{{{}}}", r"\dfrac{{{}}}{{{}}}", "{}\u2044{}", "{} / {}"]


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 999), st.integers(1, 999), st.sampled_from(FRACTIONS), st.sampled_from("+-"))
def test_a_fraction_reads_back_exactly(top, bottom, form, sign):
    text = sign.strip("+") + form.format(top, bottom)
    assert readings(text) == [Fraction(int(sign + str(top)), bottom)], text


@settings(max_examples=100, deadline=None)
@given(
    st.integers(1, 9999),
    st.integers(1, 999),
    st.integers(1, 999),
    st.sampled_from(FRACTIONS[:4]),
    st.sampled_from([" ", " and ", "\u00a0"]),
)
def test_a_mixed_number_reads_back_exactly(whole, top, more, form, space):
    text = f"{whole}{space}{form.format(top, top + more)}"
    if space != " and " or "\\" not in form:
        assert readings(text) == [whole + Fraction(top, top + more)], text


@settings(max_examples=100, deadline=None)
@given(st.decimals(min_value=0, max_value=10**9, places=4), st.integers(-20, 20))
def test_decimals_and_powers_are_exact(number, power):
    assert readings(f"{number:f}") == [Fraction(number)]
    expected = [Fraction(number) * Fraction(10) ** power]
    for text in (
        f"{number:f}e{power}",
        rf"{number:f} \times 10^{{{power}}}",
        f"{number:f}*10^{power}",
    ):
        assert readings(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\tfrac34", "3/4"),
        (r"1\frac12", "3/2"),
        ("1½", "3/2"),
        ("½", "1/2"),
        (".5", "1/2"),
        ("1.234,50", "1234.5"),
        ("1.234.567", "1234567"),
        ("12,34,567.5", "1234567.5"),
        ("1.5×10³", "1500"),
        ("10^6", "1000000"),
        ("-$1,000.00", "-1000"),
        ("$-5", "-5"),
        ("at 2:00 pm", "2"),
        ("USD18", "18"),
        ("Rs.50", "50"),
        ("$5/hour", "5"),
        ("on her mp3 player, 7", "7"),
        ("2 of H2O", "2"),
        ("x^2 is 9", "9"),
        ("4x5=20", "20"),
        ("1/3 = 0.5", "0.5"),
        ("1/2 or 0.5", "0.5"),
        ("0.60 or 60%", "60"),
        ("$30 + $160 or $190", "190"),
        ("5 hours = 300 minutes", "300"),
    ],
)
def test_one_number(text, expected):
    assert readings(text) == [Fraction(expected)]


SAME = [
    ["5-7", "5\u20137", "5 - 7", "5 to 7", "between 5 and 7", "Between $5 and $7", "5%-7%", "5€-7€",
     "5~7", "from 5 cm to 7 cm", "between 5 cm and 7 cm", "5 cm - 7 cm", "\\$5--\\$7", "５〜７"],
    ["5, 6", "5 and 6", "5, and 6", "5; 6", "$5 & $6", "5 apples and 6 apples"],
    ["5 or 6", "5% or 6%"],
    ["3,4"],
    ["3 out of 4", "3:4"],
    ["12 345", "$12 345"],
    ["5 + 3", "5+3"],
    ["5\u00b13", "5 \\pm 3"],
    ["1/0"],
    ["3\\pi", "3π"],
    ["2\\sqrt{3}", "2√(3)", "$2 \\sqrt3$"],
    ["2\\sqrt{5}"],
    ["1.2.3"],
    ["2020-01-05"],
    ["5^x"],
    ["0,123"],
    ["6,000,00"],
    ["1e999999999"],
    ["10 -5"],
    ["1-1/2"],
]  # fmt: skip


def test_what_is_not_one_number_equals_only_what_says_the_same():
    found = [[readings(text) for text in texts] for texts in SAME]
    for texts, several in zip(SAME, found, strict=True):
        for text, one in zip(texts, several, strict=True):
            assert len(one) == 1, text
            assert isinstance(one[0], Unclear), text
            assert one == several[0], text
    assert len({several[0][0] for several in found}) == len(SAME)


@pytest.mark.parametrize("text", ["", "none", "H2O", "x_1", "s^-1", "½".replace("½", "half")])
def test_no_number(text):
    assert readings(text) == []


@pytest.mark.parametrize(
    "text", ["9" * 9000, "1e" + "9" * 9000, "9" * 9000 + "/3", "1" + ",111" * 999]
)
def test_numbers_without_end_stay_text(text):
    (reading,) = readings(text)
    assert isinstance(reading, Unclear)
