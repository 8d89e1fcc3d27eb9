"""The check of an engine's states by its own log-probabilities: which positions it looks at."""

import pytest
import torch
from small_models import small_model

from distillens_plugin.lens.known_lenses import lens_of
from distillens_plugin.teacher_cache.fill.engine import FillRow, RowStates
from distillens_plugin.teacher_cache.fill.self_check import NUM_COMPARED, SelfCheck
from distillens_plugin.teacher_cache.fill.token_log_probs import token_log_probs
from eval_harness.errors import RunFailure

# So many rows that fewer positions are compared than there are rows.
NUM_ROWS, LENGTH = 3 * NUM_COMPARED, 40


@pytest.mark.parametrize("wrong", [None, LENGTH - 3])
def test_of_many_short_rows_not_the_first_positions_alone_are_compared(wrong):
    lens = lens_of(small_model("gpt2", layers=2, width=16, vocab=60))
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(60, (LENGTH + 1,), generator=generator)
    finals = torch.randn(LENGTH, 16, generator=generator)
    given = token_log_probs(lens, finals, tokens[1:])
    if wrong is not None:
        given[wrong] -= 9.0
    rows = [FillRow(str(i), tokens.tolist(), list(range(LENGTH))) for i in range(NUM_ROWS)]
    results = {row.row_id: RowStates(row.row_id, {}, given) for row in rows}
    check = SelfCheck(lens, {"engine": "an engine", "dtype": "float32"})

    def run():
        check.check(rows, results, dict.fromkeys(results, finals))

    if wrong is None:
        run()
        assert check.num_compared >= NUM_COMPARED
    else:
        with pytest.raises(RunFailure, match="are not the teacher's"):
            run()
