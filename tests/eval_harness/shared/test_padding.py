"""Token lists of unlike length as one batch."""

from eval_harness.shared.padding import left_padded, right_padded

ROWS = [(5, 6, 7), (8,), (9, 4)]


def test_rows_end_together_on_the_left_and_begin_together_on_the_right():
    ids, mask = left_padded(ROWS, 0)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8], [0, 9, 4]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 1, 1]]
    ids, mask = right_padded(ROWS, 0)
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0], [9, 4, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0], [1, 1, 0]]


def test_a_padding_id_that_is_a_token_too_is_masked():
    ids, mask = left_padded([[3], [3, 3]], 3)
    assert ids.tolist() == [[3, 3], [3, 3]]
    assert mask.tolist() == [[0, 1], [1, 1]]
