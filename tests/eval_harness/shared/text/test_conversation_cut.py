"""A conversation that is too long loses its oldest turns, then the end of its longest message."""

import pytest

from eval_harness.errors import DistillensError
from eval_harness.shared.text.conversation_cut import cut_conversation
from eval_harness.shared.text.messages import read_conversation


def words(conversation):
    """One word a role, and one for each of the message's words."""
    return [
        word
        for message in conversation.messages
        for word in [f"<{message.role}>", *message.content.split()]
    ]


def talk(*turns):
    roles = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    messages = [{"role": roles[turn[0]], "content": turn[1:].strip()} for turn in turns]
    return read_conversation({"messages": messages}, "x")


def cut(conversation, max_tokens):
    return " ".join(cut_conversation(conversation, words, max_tokens))


@pytest.mark.parametrize(
    ("max_tokens", "left"),
    [
        (12, "<system> s1 <user> u1 <assistant> a1 <user> u2 <assistant> a2 <user> u3"),
        (11, "<system> s1 <user> u2 <assistant> a2 <user> u3"),
        (8, "<system> s1 <user> u2 <assistant> a2 <user> u3"),
        (7, "<system> s1 <user> u3"),
        (4, "<system> s1 <user> u3"),
    ],
)
def test_the_oldest_turns_go_first_and_the_system_prompt_stays(max_tokens, left):
    conversation = talk("s s1", "u u1", "a a1", "u u2", "a a2", "u u3")
    assert cut(conversation, max_tokens) == left


def test_without_a_system_prompt_what_is_left_begins_with_a_user_s_message():
    assert cut(talk("u u1", "a a1", "u u2", "a a2", "t t2"), 9) == (
        "<user> u2 <assistant> a2 <tool> t2"
    )
    assert cut(talk("a a0", "u u1"), 3) == "<user> u1"


def test_the_longest_message_loses_its_end_then_the_next_longest():
    conversation = talk("s be brief", "u " + "word " * 1000)
    assert cut(conversation, 14) == "<system> be brief <user>" + " word" * 10
    assert cut(conversation, 3) == "<system> be <user>"
    assert cut(conversation, 2) == "<system> <user>"


def test_a_very_long_message_is_not_tokenised_again_and_again():
    lengths = []

    def encode(conversation):
        lengths.append(len(conversation.messages[0].content))
        return words(conversation)

    assert len(cut_conversation(talk("u " + "word " * 20_000), encode, 50)) == 50
    assert sum(length > 2000 for length in lengths) <= 2


def test_a_template_that_is_too_long_by_itself_is_refused():
    with pytest.raises(DistillensError, match="alone takes 2 tokens, but a prompt may have 1"):
        cut(talk("s a", "u b"), 1)
