"""Pages of the site that are made from the code or name parts of it: errors, Python, notebooks."""

import json
import re
from pathlib import Path

import pytest

import distillens_plugin
import eval_harness
from eval_harness.errors import DistillensError, RunFailure

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def beside_the_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPO / "docs" / "site"))


def test_the_page_of_errors_is_current():
    from errors_page import DOCUMENT, errors

    assert DOCUMENT.read_text(encoding="utf-8") == errors(), "run python docs/site/errors_page.py"


def test_it_lists_every_class_with_the_code_that_commands_end_with():
    from errors_page import error_classes, exit_code

    codes = {each.name: exit_code(each) for each in error_classes()}
    assert codes["DistillensError"] == str(DistillensError.exit_code)
    assert codes["RunFailure"] == str(RunFailure.exit_code)
    # Classes that inherit: an endpoint's failure is a failure while running.
    assert codes["EndpointFailure"] == "1"
    assert len(codes) > 8
    assert all(each.meaning for each in error_classes())


def test_its_messages_are_those_of_the_code():
    from common_messages import SECTIONS, Message, in_code

    messages = [message for section in SECTIONS.values() for message in section]
    assert len(messages) >= 20
    missing = [message.text for message in messages if not in_code(message, REPO)]
    assert not missing
    assert not in_code(Message(messages[0].module, "said nowhere", "", ""), REPO)


def test_the_python_page_has_every_public_name():
    page = (REPO / "docs" / "api.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^::: (\S+)$", page, re.MULTILINE))
    for package in (distillens_plugin, eval_harness):
        names = {f"{package.__name__}.{name}" for name in package.__all__}
        assert not names - listed


def test_a_notebook_becomes_its_text_its_code_and_its_pictures(tmp_path):
    from notebook_page import notebook_page

    outputs = [
        {"output_type": "stream", "name": "stdout", "text": ["```\n", "three ticks\n"]},
        {
            "output_type": "display_data",
            "data": {
                "image/png": "QUJD\n",
                "text/plain": ["a map"],
                "text/html": "<script>x</script>",
            },
        },
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "words"]},
        {"cell_type": "code", "source": ["1 + 1"], "outputs": outputs},
        {"cell_type": "raw", "source": ["left out"]},
    ]
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps({"cells": cells}), encoding="utf-8")
    page = notebook_page(path)
    assert page.startswith(
        "# Title\nwords\n\n```python\n1 + 1\n```\n\n````text\n```\nthree ticks\n````"
    )
    assert "![a map](data:image/png;base64,QUJD)" in page
    assert "script" not in page
    assert "left out" not in page


def test_the_tour_is_kept_with_the_outputs_of_a_whole_run_and_is_small():
    path = REPO / "docs" / "tour.ipynb"
    assert path.stat().st_size < 300_000
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if "outputs" in cell]
    assert len(cells) > 8
    assert all(cell["outputs"] for cell in cells)
    # A kernel counts what it runs: all cells, in their order, once.
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not {output["output_type"] for output in outputs} - {
        "stream",
        "display_data",
        "execute_result",
    }
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    texts = json.dumps([output for output in outputs if "image/png" not in output.get("data", {})])
    assert not re.search(r"/(home|root|tmp|usr|Users)/|stderr", texts)


def test_the_picture_of_cost_reads_the_table_above_it():
    from cost_picture import DOCS, points, rows

    table = rows((DOCS / "results.md").read_text(encoding="utf-8"))
    lenses, plain = points(table)
    # One row is FKL alone; each lens has a cost and a loss, and most have FKL for as long.
    assert len(lenses) == len(table) - 1 >= 5
    assert plain[0][0] == 1.0
    assert len(plain) >= 5
    assert all(1 < cost < 2 and 3 < loss < 4 for cost, loss, _ in lenses)
    assert [loss for _, loss in plain] == sorted((loss for _, loss in plain), reverse=True)
