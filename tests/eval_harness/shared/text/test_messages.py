"""A row's conversation is read in both published forms, and refused by place, turn and field."""

import json

import pytest

from eval_harness.errors import DistillensError
from eval_harness.shared.text.messages import conversation_column, read_conversation

HI = {"role": "user", "content": "Hi."}
HELLO = {"role": "assistant", "content": "Hello."}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def turns(row, **kwargs):
    column = conversation_column(row)
    assert column is not None
    found = read_conversation(row, "rows.jsonl:3", column=column, **kwargs)
    return [(message.role, message.content) for message in found.messages]


def test_messages_and_sharegpt_say_the_same():
    messages = [{"role": "system", "content": "Be brief."}, HI, HELLO]
    sharegpt = [{"from": "system", "value": "Be brief."}, {"from": "human", "value": "Hi."}]
    sharegpt += [{"from": "gpt", "value": "Hello."}]
    expected = [("system", "Be brief."), ("user", "Hi."), ("assistant", "Hello.")]
    assert turns({"messages": messages}) == expected
    assert turns({"conversations": sharegpt}) == expected
    assert turns({"conversations": sharegpt[1:], "system": "Be brief."}) == expected
    assert turns({"messages": sharegpt}) == expected
    assert turns({"messages": json.dumps(messages)}) == expected


def test_keys_that_say_nothing_are_passed_over():
    filled = {**HELLO, "reasoning_content": None, "thinking": "", "weight": 1, "mood": "good"}
    assert turns({"messages": [HI, filled]}) == turns({"messages": [HI, HELLO]})


def test_a_task_with_its_output_stays_a_task():
    assert conversation_column({"prompt": "Hi.", "output": "Hello.", "messages": [HI]}) is None
    # UltraChat repeats the first message as `prompt`.
    assert conversation_column({"prompt": "Hi.", "messages": [HI, HELLO]}) == "messages"
    assert conversation_column({"messages": [HI], "output": "Hello."}) == "messages"
    assert conversation_column({"messages": None, "conversations": [HI]}) == "conversations"
    assert conversation_column({"text": "Hi."}) is None
    assert conversation_column({"messages": "", "instruction": "Hi."}) is None


def test_text_parts_are_joined_and_marks_for_newlines_are_read():
    parts = [{"type": "text", "text": "a<n>"}, {"type": "text", "text": "b"}]
    row = {"messages": [{"role": "user", "content": parts}]}
    assert turns(row) == [("user", "a<n>b")]
    assert turns(row, newline="<n>") == [("user", "a\nb")]
    assert turns({"messages": [{"role": "user", "content": "\ud800"}]}) == [("user", "\ufffd")]


def test_calls_of_tools_reach_the_template_with_their_arguments_as_an_object():
    call = {"id": "c1", "type": "function", "function": {"name": "weather"}}
    call["function"]["arguments"] = '{"city": "Rome"}'
    row = {
        "messages": [
            HI,
            {"role": "assistant", "content": None, "tool_calls": [call], "name": None},
            {"role": "tool", "content": "Sunny.", "tool_call_id": "c1", "tool_calls": None},
            HELLO,
        ],
        "tools": json.dumps([WEATHER]),
    }
    found = read_conversation(row, "rows.jsonl:3")
    assert found.tools == (WEATHER,)
    asked, answered = found.to_template()[1:3]
    function = {"name": "weather", "arguments": {"city": "Rome"}}
    assert asked["tool_calls"] == [{"type": "function", "function": function, "id": "c1"}]
    assert answered == {"role": "tool", "content": "Sunny.", "tool_call_id": "c1"}


def test_sharegpt_s_calls_are_json_texts():
    row = {
        "conversations": [
            {"from": "human", "value": "Hi."},
            {
                "from": "function_call",
                "value": '{"name": "weather", "arguments": {"city": "Rome"}}',
            },
            {"from": "observation", "value": "Sunny."},
            {"from": "gpt", "value": "It is sunny."},
        ]
    }
    found = read_conversation(row, "x", column="conversations")
    assert [message.role for message in found.messages] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert found.messages[1].tool_calls[0].arguments == {"city": "Rome"}


def test_the_last_answer_and_what_is_before_it():
    found = read_conversation({"messages": [HI, HELLO, HI, HELLO, HI]}, "x")
    assert found.last_answer() == 3
    assert len(found.before(3).messages) == 3
    assert found.before(1).last_answer() is None
    assert found.before(1).with_answer("Hello.") == found.before(2)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, r"messages is empty, expected at least one message"),
        ({"messages": "Hi."}, r"messages is a text, not JSON: .*; expected a list of messages"),
        ({"messages": 3}, r"messages is 3 \(a JSON number\), expected a list of messages"),
        ({"messages": [HI, "Hello."]}, r"messages\[1\] is a JSON text, expected an object"),
        ({"messages": [{"content": "Hi."}]}, r"messages\[0\]: found the keys content; expected"),
        (
            {"messages": [HI, {"role": "assistent", "content": "Hello."}]},
            r"messages\[1\]\.role is 'assistent', expected .*; did you mean 'assistant'\?",
        ),
        ({"messages": [{"role": "gpt", "content": "a"}]}, r"messages\[0\]\.role is 'gpt'"),
        ({"conversations": [{"from": "alien", "value": "a"}]}, r"\[0\]\.from is 'alien'"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\]\.content is None, expected a text or"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            r"messages\[0\]\.content\[0\] is .*image.*, expected a text or a list",
        ),
        (
            {"messages": [HI, {"role": "system", "content": "a"}]},
            r"messages\[1\] is a system message, which can only come first",
        ),
        (
            {"messages": [HI, {"role": "tool", "content": "a"}]},
            r"messages\[1\] is a tool's answer after user; expected it after the assistant",
        ),
        (
            {"messages": [{"role": "tool", "content": "a"}], "system": "b"},
            r"messages\[0\] is a tool's answer after system",
        ),
        (
            {"messages": [{"role": "system", "content": "a"}, HI], "system": "b"},
            r"found a system text and a system message in messages\[0\]; delete one",
        ),
        ({"messages": [{**HI, "tool_calls": [{"name": "a"}]}]}, r"a user message has tool_calls"),
        (
            {"messages": [{**HELLO, "tool_calls": [{"name": "a", "arguments": "x"}]}]},
            r"messages\[0\]\.tool_calls\[0\]\.arguments is a text, not JSON",
        ),
        (
            {"messages": [HI], "tools": ["weather"]},
            r"tools\[0\] is a JSON text, expected an object",
        ),
        ({"messages": [HI], "tools": [{"a": 1}]}, r"tools\[0\] is .*, expected a tool with a name"),
        (
            {"messages": [HI, {**HELLO, "reasoning_content": "Hm."}]},
            r"\[1\]\.reasoning_content is 'Hm\.', which is not read; put it into the content",
        ),
        (
            {
                "messages": [
                    HI,
                    {"role": "assistant", "content": None, "function_call": {"name": "f"}},
                ]
            },
            r"messages\[1\]\.function_call is .*, which is not read; write it as tool_calls",
        ),
        (
            {"messages": [HI, {**HELLO, "weight": 0}]},
            r"messages\[1\]\.weight is 0, but all answers that are learnt count alike",
        ),
        (
            {"conversations": [{"from": "function_call", "value": ""}]},
            r"conversations\[0\]\.value is '', expected a call as JSON",
        ),
    ],
)
def test_what_is_refused_and_where(row, reason):
    with pytest.raises(DistillensError, match=rf"^rows\.jsonl:3: .*{reason}"):
        turns(row)
