"""Words of any script, for `rougeL_unicode`.

A word is a run of letters, marks and numbers (Unicode's categories L, M and N) that begins with a
letter or a number; all else separates, also what may stand inside an English word ("don't"), as in
rouge-score. In scripts that put no spaces between words, each letter is a word, with the marks
after it: those are the letters that the word boundaries of UAX #29 leave to dictionaries (Han,
Hiragana, Katakana, and Thai, Lao, Khmer, Myanmar and their kin, whose line-break class is SA).

The text is first brought to one form: without characters that show nothing (joiners, soft hyphens,
variation selectors), then NFKC, case-folded, and NFKC again. Words of a-z and 0-9 go through
rouge-score's own tokenizer, stemmer included, so text in ASCII has the words of `rougeL`.
"""

import functools
import importlib.metadata
import unicodedata
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import regex

_RULES = "unicode-1"
# The zero-width space shows nothing too, but it is how Thai and Khmer text marks words.
_IGNORED = r"[\p{Default_Ignorable_Code_Point}--\u200b]"
_ALONE = r"[[\p{L}\p{Nl}]&&[\p{scx=Han}\p{scx=Hiragana}\p{scx=Katakana}\p{Line_Break=SA}]]"
_WORD = rf"{_ALONE}\p{{M}}*|[[\p{{L}}\p{{N}}]--{_ALONE}][[\p{{L}}\p{{M}}\p{{N}}]--{_ALONE}]*"


class Tokenizer(Protocol):
    """What ROUGE's packages take as a tokenizer."""

    def tokenize(self, text: str) -> list[str]: ...


class UnicodeTokenizer:
    """The words of a text, those of a-z and 0-9 as another tokenizer gives them."""

    def __init__(self, ascii_tokenizer: Tokenizer) -> None:
        self._stem = functools.lru_cache(maxsize=2**16)(ascii_tokenizer.tokenize)
        # The answers of all seeds to a row come one after the other, with the same references.
        self._cached = functools.lru_cache(maxsize=64)(self._words)

    def tokenize(self, text: str) -> list[str]:
        return self._cached(text)

    def _words(self, text: str) -> list[str]:
        words: list[str] = []
        for word in unicode_words(text):
            words += self._stem(word) if word.isascii() else [word]
        return words


def unicode_words(text: str) -> list[str]:
    """The words of a text, case-folded, not stemmed.

    Args:
        text: any Python string, lone surrogates included; they separate words.
    """
    ignored, word = _patterns()
    if not text.isascii():
        text = unicodedata.normalize("NFKC", ignored.sub("", text))
        text = unicodedata.normalize("NFKC", text.casefold())
    else:
        text = text.lower()
    found: list[str] = word.findall(text)
    return found


def has_unicode_word(text: str) -> bool:
    """Whether `rougeL_unicode` sees a word: a letter or a number of any script."""
    return bool(unicode_words(text))


def unicode_version() -> str:
    """What the words depend on, as kept in results."""
    package = importlib.metadata.version("regex")
    return f"{_RULES}, regex {package}, Unicode {unicodedata.unidata_version}"


@functools.cache
def _patterns() -> "tuple[regex.Pattern[str], regex.Pattern[str]]":
    import regex

    return regex.compile(_IGNORED, regex.V1), regex.compile(_WORD, regex.V1)
