"""Heat maps as grids and as pictures."""

import math

import numpy as np
import pytest

from eval_harness.shared.pages.heat_map import HeatMap


def heat_map(values: object, **changes: object) -> HeatMap:
    shape = np.array(values, dtype=float).shape
    given: dict[str, object] = {
        "name": "map",
        "title": "Map",
        "caption": "Read it.",
        "rows": [f"r{row}" for row in range(shape[0])],
        "columns": [f"c{column}" for column in range(shape[1])],
        "values": values,
        "row_label": "student layer",
        "column_label": "teacher layer",
        "unit": "nats",
        "decimals": 2,
    }
    return HeatMap(**(given | changes))  # type: ignore[arg-type]


def test_a_cell_says_where_it_is_and_what_it_holds():
    grid = heat_map([[0.0, None], [math.nan, 1.0]], marked={(1, 1)}).grid()
    assert grid.cells[0][0].says == "student layer r0, teacher layer c0: 0.00 nats"
    assert grid.cells[0][1].says == "student layer r0, teacher layer c1: no value"
    assert grid.cells[1][0].says == "student layer r1, teacher layer c0: no value"
    assert grid.cells[1][1].says == "student layer r1, teacher layer c1: 1.00 nats (marked)"
    assert [cell.text for line in grid.cells for cell in line] == ["0.00", "", "", "1.00"]
    assert [cell.is_marked for line in grid.cells for cell in line] == [False, False, False, True]
    assert grid.scale is not None
    assert grid.scale[1:] == ("0.00 nats", "1.00 nats")


def test_a_scale_has_the_ends_of_its_values_or_those_that_were_given():
    assert heat_map([[-1.0, 3.0]]).ends() == (-1.0, 3.0)
    assert heat_map([[0.2, 0.4]], low=0.0, high=1.0).ends() == (0.0, 1.0)


def test_many_columns_leave_the_numbers_to_the_line_below():
    grid = heat_map(np.ones((2, 13))).grid()
    assert {cell.text for line in grid.cells for cell in line} == {""}
    assert grid.cells[1][12].says == "student layer r1, teacher layer c12: 1.00 nats"


@pytest.mark.parametrize("values", [[[None, None]], [[2.0, 2.0]], [[1.0]], np.zeros((30, 40))])
def test_any_matrix_is_drawn(values):
    drawn = heat_map(values)
    assert drawn.figure().png.startswith(b"\x89PNG")
    assert len(drawn.grid().cells) == len(values)
