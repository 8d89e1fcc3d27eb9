r"""Text with its numbers in plain characters: LaTeX, Markdown and typography taken away.

`\frac{3}{4}` becomes 3/4, `1{,}234` becomes 1,234, full-width digits become digits, and all that
is printed as a minus sign becomes one. What the numbers mean is `written_numbers`' part.
"""

import re
import unicodedata

_DASHES = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"), "-")
# Some without a meaning of their own, some that are punctuation of other scripts.
_SIGNS = {0x2044: "/", 0x2215: "/", 0x2019: "'", 0x301C: "~", 0x066B: ".", 0x066C: ",", 0x2015: "—"}
_NARROW_SPACE = re.compile(r"(?<=\d)[\u00a0\u2007\u2009\u202f](?=\d{3}(?!\d|[ ]?/))")
_OTHER_SPACE = re.compile("[\u00a0\u2007\u2009\u202f\u3000]")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_SUPERSCRIPTS = re.compile("[⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+")
_SUPERSCRIPT_DIGITS = str.maketrans("⁺⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "+-0123456789")

_THOUSANDS_SPACE = re.compile(r"(?<=\d)\\[,;: ](?=\d{3}(?!\d))")
_SYMBOLS = {
    "times": "×",
    "cdot": "·",
    "div": "÷",
    "pm": "±",
    "approx": "≈",
    "sqrt": "√",
    "pi": "π",
    "colon": ":",
}
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_DEGREES = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))")
_TEXT = re.compile(r"\\(?:text|math|mbox|operatorname|bm|boldsymbol)[A-Za-z]*\s*\{([^{}]*)\}")
_ROOT = re.compile(r"\\sqrt(?:\s*\{([^{}]*)\}|[ ]*(\d))")
_ARGUMENT = r"\s*(?:\{([^{}]*)\}|([0-9A-Za-z]))"
_FRACTION = re.compile(rf"\\[dtc]?frac(?![b-zB-Z]){_ARGUMENT}{_ARGUMENT}")
_POWER = re.compile(r"\^\s*\{([^{}]*)\}")
_NESTED = 6

_POWER_OF_CODE = re.compile(r"(?<=\d)\*\*(?=\d)")
_EMPHASIS = re.compile(r"\*{2,}|__|`")
_LONG_DASH = re.compile(r"(?<=\d)-{2,3}(?=[$€£¥₹]?\d)")
_CROSS = re.compile(r"(?<=\d)[ ]?[xX][ ]?(?=[\d($])")


def plain_numbers(text: str) -> str:
    """The text with each number in the characters 0-9 . , ' / - ^ e; other text may be lost."""
    if not text.isascii():
        text = _plain_characters(text)
    if "\\" in text or "{" in text:
        text = _without_latex(text)
    text = _EMPHASIS.sub("", _POWER_OF_CODE.sub("^", text))
    return _CROSS.sub("×", _LONG_DASH.sub("-", text))


def _plain_characters(text: str) -> str:
    text = text.translate(_DASHES | _SIGNS)
    text = _SUPERSCRIPTS.sub(lambda found: "^" + found[0].translate(_SUPERSCRIPT_DIGITS), text)
    text = _OTHER_SPACE.sub(" ", _NARROW_SPACE.sub("", text))
    return _NOT_ASCII.sub(_plain_character, text)


def _plain_character(found: re.Match[str]) -> str:
    character = found[0]
    if 0xFF01 <= ord(character) <= 0xFF5E:
        return chr(ord(character) - 0xFEE0)
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    form = unicodedata.normalize("NFKC", character)
    if "\u2044" in form:
        # "1½" is one and a half.
        is_mixed = found.start() > 0 and found.string[found.start() - 1].isdigit()
        return " " * is_mixed + form.replace("\u2044", "/")
    return character


def _without_latex(text: str) -> str:
    text = _DEGREES.sub("°", text.replace(r"\!", "").replace("{,}", ","))
    text = _THOUSANDS_SPACE.sub("", text)
    text = re.sub(r"\\([$%#&_])", r"\1", text)
    for _ in range(_NESTED):
        before = text
        text = _TEXT.sub(r" \1 ", _ROOT.sub(r"√(\1\2)", text))
        text = _POWER.sub(r"^\1", _FRACTION.sub(_fraction, text))
        if text == before:
            break
    text = _COMMAND.sub(lambda found: _SYMBOLS.get(found[1], " "), text)
    return re.sub(r"\\.|[{}\\]", " ", text)


def _fraction(found: re.Match[str]) -> str:
    top, bottom = ((found[n] or found[n + 1] or "").strip() for n in (1, 3))
    if not re.fullmatch(r"[-+]?[\d.,]+", top) or not re.fullmatch(r"[\d.,]+", bottom):
        return f"({top})/({bottom})"
    is_mixed = re.search(r"\d\s*$", found.string[max(0, found.start() - 9) : found.start()])
    return " " * (is_mixed is not None) + f"{top}/{bottom}"
