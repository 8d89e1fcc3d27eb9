"""IFEval's instructions, checked by lm-eval's own code.

Source: Zhou et al. 2023, arXiv 2311.07911; the checker is `lm_eval.tasks.ifeval`.
"""

import contextlib
import importlib.metadata
import random
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from eval_harness.errors import DistillensError
from eval_harness.shared.shortened import shortened

# What the checker reads of a row.
FIELDS = ("key", "prompt", "instruction_id_list", "kwargs")
# These count sentences or split words, with data that nltk downloads.
_NEED_PUNKT = ("length_constraints:number_sentences", "change_case:capital_word_frequency")
_PUNKT = "tokenizers/punkt_tab"


def check_rows(rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Refuses rows that are not IFEval's, and an environment without lm-eval's checker.

    Args:
        rows: of each, its id and its fields.
    Raises:
        DistillensError: one line on what is missing.
    """
    _checker()
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    for row_id, row in rows:
        where = f"ifeval: row {shortened(repr(row_id))}"
        asked, given = row.get("instruction_id_list"), row.get("kwargs")
        if not isinstance(row.get("prompt"), str) or "key" not in row:
            raise DistillensError(f"{where}: expected a key and a prompt, as IFEval's rows have")
        if not isinstance(asked, list) or not asked or not isinstance(given, list):
            raise DistillensError(
                f"{where}: expected lists instruction_id_list and kwargs, as IFEval's rows have"
            )
        if len(asked) != len(given) or not all(isinstance(item, dict) for item in given):
            raise DistillensError(
                f"{where}: found {len(given)} kwargs, expected an object for each of the "
                f"{len(asked)} instructions"
            )
        for name in asked:
            if not isinstance(name, str) or name not in INSTRUCTION_DICT:
                raise DistillensError(
                    f"{where}: lm-eval knows no instruction {shortened(repr(name))}"
                )
        if any(name in _NEED_PUNKT for name in asked) and not _has_punkt():
            raise DistillensError(
                f"{where} needs nltk's data {_PUNKT}, which is not here; python -m nltk.downloader "
                "punkt_tab, or give --predict_only"
            )
        try:
            check_answer(row, "")
        except Exception as error:
            raise DistillensError(
                f"{where}: lm-eval's checker refuses it ({type(error).__name__}: "
                f"{shortened(str(error))}); expected a row as IFEval has them"
            ) from error


def check_answer(row: dict[str, Any], answer: str) -> dict[str, list[bool]]:
    """Which instructions hold, by metric: one value for a prompt, or one for each instruction."""
    checker, state = _checker(), random.getstate()
    # For what it takes for no letter (`!`, `#`) it draws one; a row has the same in every run.
    random.seed(str(row["key"]))
    try:
        found = checker.process_results(row, [answer])
    finally:
        random.setstate(state)
    return {name: held if isinstance(held, list) else [held] for name, held in found.items()}


def version() -> str:
    """Name and version of the checker."""
    return f"lm_eval {importlib.metadata.version('lm_eval')}"


def _checker() -> ModuleType:
    try:
        # It downloads nltk's data if they are missing, and says so on standard output.
        with contextlib.redirect_stdout(sys.stderr):
            import langdetect
            from lm_eval.tasks.ifeval import utils
    except ImportError as error:
        raise DistillensError(
            f"ifeval is scored by lm-eval's own checker, which is not installed ({error}); "
            'pip install "lm-eval[ifeval]", or give --predict_only'
        ) from error
    # It guesses languages with random numbers; with one seed, an answer has one score.
    langdetect.DetectorFactory.seed = 0
    return utils


def _has_punkt() -> bool:
    import nltk

    try:
        nltk.data.find(_PUNKT)
    except LookupError:
        return False
    return True
