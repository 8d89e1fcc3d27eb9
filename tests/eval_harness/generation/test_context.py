"""System messages and solved examples: what stands before a question, and what is cut first."""

from dataclasses import replace

import pytest
from small_tokenizers import byte_level

from eval_harness.benchmarks import Row, load_benchmark, load_fewshot
from eval_harness.errors import DistillensError
from eval_harness.generation.context import Context
from eval_harness.generation.prompts import prepare_prompts
from eval_harness.protocols.protocol import PROTOCOLS, TRUNCATIONS
from eval_harness.shared.text.messages import Conversation, Message

SHORT = replace(PROTOCOLS["default"], template="question", max_prompt_tokens=10**6)
CHAT = replace(SHORT, template="chat")


def row(name: str, **more) -> Row:
    return Row(0, name, f"say {name}", "", None, (name.upper(),), {}, **more)


def prompts(context: Context, protocol=CHAT, asked: Row | None = None):
    return prepare_prompts([asked or row("q")], protocol, byte_level(), context)


def chatml(*turns: tuple[str, str]) -> str:
    (text,) = prepare_prompts(
        [replace(row("q"), conversation=Conversation(tuple(Message(*turn) for turn in turns)))],
        CHAT,
        byte_level(),
    ).texts
    return text


EXAMPLES = (row("a"), row("b"))


def test_no_context_changes_nothing():
    for protocol in (SHORT, CHAT):
        without = prepare_prompts([row("q")], protocol, byte_level())
        assert prompts(Context(as_turns=True), protocol).token_ids == without.token_ids


def test_a_system_message_comes_first():
    found = prompts(Context("Be brief."))
    assert found.texts == [chatml(("system", "Be brief."), ("user", "say q"))]
    assert "Be brief." in found.texts[0]


def test_examples_are_turns_or_text_of_one_turn():
    turns = [("user", "say a"), ("assistant", "A"), ("user", "say b"), ("assistant", "B")]
    assert prompts(Context(None, EXAMPLES, True)).texts == [chatml(*turns, ("user", "say q"))]
    text = "say a\nA\n\nsay b\nB\n\nsay q"
    assert prompts(Context(None, EXAMPLES, False)).texts == [chatml(("user", text))]


def test_examples_of_another_template_are_prompts_with_their_answers():
    assert prompts(Context(None, EXAMPLES), SHORT).texts == [
        "Question: say a\nAnswer:\nA\n\nQuestion: say b\nAnswer:\nB\n\nQuestion: say q\nAnswer:\n"
    ]


@pytest.mark.parametrize("truncation", TRUNCATIONS)
@pytest.mark.parametrize("as_turns", [True, False])
@pytest.mark.parametrize("protocol", [SHORT, CHAT])
def test_a_long_prompt_loses_its_first_examples_and_last_the_question_s_end(
    protocol, as_turns, truncation
):
    protocol = replace(protocol, truncation=truncation)
    system = "Be brief." if protocol is CHAT else None
    whole = Context(system, EXAMPLES, as_turns)
    kept = prompts(Context(system, EXAMPLES[1:], as_turns), protocol)
    alone = prompts(Context(system), protocol)
    for expected in (kept, alone):
        length = len(expected.token_ids[0])
        found = prompts(whole, replace(protocol, max_prompt_tokens=length))
        assert (found.token_ids, found.texts) == (expected.token_ids, expected.texts)
        assert found.counts.cut == 1
    shorter = replace(protocol, max_prompt_tokens=len(alone.token_ids[0]) - 1)
    found, expected = prompts(whole, shorter), prompts(Context(system), shorter)
    assert (found.token_ids, found.texts) == (expected.token_ids, expected.texts)


@pytest.mark.parametrize("truncation", TRUNCATIONS)
def test_a_ready_prompt_loses_its_examples_before_its_own_end(truncation):
    ready = replace(row("q"), instruction="", prompt="Which city is the capital of Peru? It is")
    protocol = replace(SHORT, truncation=truncation)
    (alone,) = prompts(Context(), protocol, ready).token_ids
    for length in (len(alone) + 1, len(alone), len(alone) - 1):
        shorter = replace(protocol, max_prompt_tokens=length)
        assert prompts(Context(None, EXAMPLES), shorter, ready).token_ids == [alone[:length]]


def test_what_has_no_place_for_a_context_is_refused():
    ready = replace(row("q"), instruction="", prompt="Say hi.")
    with pytest.raises(DistillensError, match="row 'q' has a ready prompt"):
        prompts(Context("Be brief."), asked=ready)
    talk = Conversation((Message("system", "x"), Message("user", "y")))
    with pytest.raises(DistillensError, match="system message of its own"):
        prompts(Context("Be brief."), asked=row("q", conversation=talk))
    with pytest.raises(DistillensError, match=r"fewshot\[0\] has a system message"):
        prompts(Context(None, (row("a", conversation=talk),), True))
    with pytest.raises(DistillensError, match=r"fewshot\[0\] has 2 messages"):
        prompts(Context(None, (row("a", conversation=talk),), False))


def test_a_benchmark_s_examples_are_rows_like_its_others(tmp_path):
    file = tmp_path / "mine.yaml"
    start = 'task: mine\npath: rows.jsonl\nnewline: "<n>"\nfields: {instruction: q}\n'
    file.write_text(start + "fewshot: [{q: 'a<n>b', output: [c, d]}]\n")
    (example,) = load_fewshot(load_benchmark(file))
    assert (example.instruction, example.references) == ("a\nb", ("c", "d"))
    file.write_text(start + "fewshot: [{q: a}]\n")
    with pytest.raises(DistillensError, match=r"mine.yaml: fewshot\[0\]: output = None"):
        load_fewshot(load_benchmark(file))
    file.write_text(start + "fewshot: [a]\n")
    with pytest.raises(DistillensError, match=r"fewshot\[0\] is str"):
        load_benchmark(file)


def test_only_a_context_that_is_set_is_in_the_settings():
    assert "num_fewshot" not in SHORT.settings()
    found = replace(CHAT, system_instruction="x", num_fewshot=2, fewshot_as_multiturn=True)
    assert {"system_instruction": "x", "num_fewshot": 2, "fewshot_as_multiturn": True}.items() <= (
        found.settings().items()
    )
