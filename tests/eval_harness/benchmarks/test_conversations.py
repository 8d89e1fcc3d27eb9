"""Rows with messages: the last answer is the reference, what is before it the question."""

import json

import pytest

from eval_harness.benchmarks import Benchmark, data_digest, load_rows
from eval_harness.benchmarks.lm_eval_export import export_tasks
from eval_harness.cli import main
from eval_harness.errors import DistillensError
from eval_harness.protocols.protocol import PROTOCOLS
from eval_harness.report.rows import prompt_text
from eval_harness.scoring.score import read_references

SYSTEM = {"role": "system", "content": "Be<n>brief."}
ASK = {"role": "user", "content": "2 + 2?"}
FOUR = {"role": "assistant", "content": "4<n>"}
AGAIN = {"role": "user", "content": "Sure?"}
YES = {"role": "assistant", "content": "Yes.<n>"}


def rows_of(tmp_path, *rows, **settings):
    file = tmp_path / "talks.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_rows(Benchmark("talks", tmp_path / "talks.yaml", path=file, **settings))


def texts(row):
    return [(message.role, message.content) for message in row.conversation.messages]


def test_the_last_answer_is_the_reference_and_not_in_the_question(tmp_path):
    whole = {"messages": [SYSTEM, ASK, FOUR, AGAIN, YES], "id": "a"}
    (row,) = rows_of(tmp_path, whole, newline="<n>")
    assert texts(row)[0] == ("system", "Be\nbrief.")
    assert [role for role, _ in texts(row)] == ["system", "user", "assistant", "user"]
    assert (row.references, row.row_id, row.doc) == (("Yes.\n",), "a", whole)
    assert (row.instruction, row.input, row.prompt) == ("", "", None)


def test_an_open_question_takes_its_references_from_the_output(tmp_path):
    sharegpt = [{"from": "human", "value": "2 + 2?"}]
    (row,) = rows_of(tmp_path, {"conversations": sharegpt, "output": ["4", "four"]})
    assert (texts(row), row.references) == ([("user", "2 + 2?")], ("4", "four"))


def test_turns_after_the_last_answer_are_not_read(tmp_path):
    empty = {"role": "assistant", "content": " "}
    rows = [{"messages": [ASK, FOUR, *more]} for more in ([], [AGAIN], [AGAIN, empty])]
    assert [texts(row) for row in rows_of(tmp_path, *rows)] == [[("user", "2 + 2?")]] * 3
    assert [row.references for row in rows_of(tmp_path, *rows)] == [("4<n>",)] * 3


def test_columns_of_other_names_and_their_errors(tmp_path):
    fields = {"messages": "dialogue"}
    (row,) = rows_of(tmp_path, {"dialogue": [ASK, FOUR]}, fields=fields)
    assert texts(row) == [("user", "2 + 2?")]
    with pytest.raises(DistillensError, match=r"talks\.jsonl:1: dialogue\[0\]\.role is 'me'"):
        rows_of(tmp_path, {"dialogue": [{"role": "me", "content": ""}]}, fields=fields)


def test_the_data_s_digest_sees_every_part_of_a_question(tmp_path):
    tool = {"name": "weather", "parameters": {}}
    rows = [
        {"messages": [ASK, FOUR]},
        {"messages": [SYSTEM, ASK, FOUR]},
        {"messages": [ASK, YES]},
        {"messages": [ASK, FOUR], "tools": [tool]},
        {"messages": [ASK], "output": FOUR["content"]},
    ]
    digests = [data_digest(rows_of(tmp_path, row)) for row in rows]
    assert len(set(digests)) == 4
    assert digests[0] == digests[4]


def test_tasks_keep_the_digests_they_had(tmp_path):
    task = {"instruction": "2 + 2?", "output": "4"}
    assert data_digest(rows_of(tmp_path, task)) == data_digest(
        rows_of(tmp_path, {**task, "messages": [ASK, FOUR]})
    )


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": [ASK]}, r"no answer in messages and no output; expected"),
        ({"messages": [FOUR]}, r"nothing is asked before the assistant's last turn in messages;"),
        ({"messages": [SYSTEM, FOUR]}, r"nothing is asked before"),
        ({"messages": [ASK, FOUR], "output": "4"}, r"the last of the messages is an assistant's"),
        ({"messages": [ASK], "output": []}, r"no answer in messages and no output"),
        (
            {"messages": [ASK, {**FOUR, "tool_calls": [{"name": "a"}]}]},
            r".*in messages calls tools",
        ),
        (
            {"text": "a"},
            r"neither 'instruction' nor 'prompt' nor 'messages', found the fields text",
        ),
    ],
)
def test_what_cannot_be_asked_or_compared_is_refused_with_its_line(tmp_path, row, reason):
    with pytest.raises(DistillensError, match=rf"talks\.jsonl:2: {reason}"):
        rows_of(tmp_path, {"messages": [ASK, FOUR]}, row)


def test_score_takes_the_same_rows_as_references(tmp_path):
    rows_of(
        tmp_path, {"messages": [ASK, FOUR], "id": 1}, {"messages": [ASK], "output": "4", "id": 2}
    )
    references = read_references(tmp_path / "talks.jsonl")
    assert (references.ids, references.texts) == ([1, 2], [["4<n>"], ["4"]])
    (tmp_path / "talks.jsonl").write_text('{"messages": [], "id": 1}\n', encoding="utf-8")
    with pytest.raises(DistillensError, match=r"talks\.jsonl:1: messages is empty"):
        read_references(tmp_path / "talks.jsonl")


def test_a_report_shows_the_messages():
    call = {"name": "weather", "arguments": {"city": "Rome"}}
    asked = {"role": "assistant", "content": "", "tool_calls": [call]}
    answered = {"role": "tool", "content": "Sunny."}
    assert prompt_text({"messages": [ASK, asked, answered, YES]}) == (
        'user: 2 + 2?\n\nassistant: weather({"city": "Rome"})\n\ntool: Sunny.'
    )
    assert prompt_text({"messages": ["odd"]}) == "['odd']"


def test_validate_counts_rows_with_messages(tmp_path, capsys):
    rows_of(tmp_path, {"messages": [ASK, FOUR]}, {"instruction": "2 + 2?", "output": "4"})
    (tmp_path / "talks.yaml").write_text("task: talks\npath: talks.jsonl\n", encoding="utf-8")
    assert main(["validate", "--tasks", str(tmp_path / "talks.yaml")]) == 0
    assert "2 rows, 0 with an input, 1 with messages, 2 references" in capsys.readouterr().out


def test_lm_eval_s_tasks_cannot_hold_them(tmp_path):
    rows_of(tmp_path, {"messages": [ASK, FOUR], "id": "a"})
    benchmark = Benchmark("talks", tmp_path / "talks.yaml", path=tmp_path / "talks.jsonl")
    with pytest.raises(DistillensError, match="talks: row 'a' is a conversation"):
        export_tasks([benchmark], PROTOCOLS["default"], tmp_path / "tasks")
