"""Real chat templates, each with the stretches of a conversation that are trained on."""

import pytest
from chat_tokenizers import FOLDER, TEMPLATES, chat_tokenizer, shown
from transformers import AutoTokenizer

from eval_harness.errors import DistillensError
from eval_harness.shared.text.chat_templates import marks_answers
from eval_harness.shared.text.messages import read_conversation
from eval_harness.shared.text.tokenisation import TextEncoder
from eval_harness.shared.text.turn_tokens import encode_turns

SYSTEM = {"role": "system", "content": "Be kind."}
TURNS = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello there"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
]
CHATML = (
    "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    "<|im_start|>assistant\n⟦Hello there<|im_end|>⟧\n<|im_start|>user\nBye<|im_end|>\n"
    "<|im_start|>assistant\n⟦See you<|im_end|>⟧"
)
# With the system's message where the template has a place for one.
EXPECTED = {
    "chatml": CHATML,
    "qwen2_5": CHATML,
    "smollm2": CHATML,
    # Its author marks the line breaks around a turn as well.
    "qwen2_5_training": CHATML.replace("\n⟦", "⟦\n").replace("⟧\n", "\n⟧")[:-1] + "\n⟧",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Hello there<|eot_id|>⟧"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n⟦See you<|eot_id|>⟧",
    "gemma": "<bos><start_of_turn>user\nHi<end_of_turn>\n"
    "<start_of_turn>model\n⟦Hello there<end_of_turn>⟧\n<start_of_turn>user\nBye<end_of_turn>\n"
    "<start_of_turn>model\n⟦See you<end_of_turn>⟧",
    "mistral": "<s>[INST] Hi[/INST]⟦ Hello there</s>⟧[INST] Bye[/INST]⟦ See you</s>⟧",
    "phi3": "<|system|>\nBe kind.<|end|>\n<|user|>\nHi<|end|>\n"
    "<|assistant|>\n⟦Hello there<|end|>⟧\n<|user|>\nBye<|end|>\n<|assistant|>\n⟦See you<|end|>⟧",
}
WITHOUT_SYSTEM = ("gemma", "mistral")


def encoded(tokenizer, messages, supervise="all_turns", **row):
    conversation = read_conversation({"messages": messages, **row}, "row 1")
    encoder = TextEncoder(tokenizer, template="chat")
    (found,) = encode_turns([conversation], encoder, supervise=supervise, places=["row 1"])
    return found


def refusal(tokenizer, messages, **options):
    with pytest.raises(DistillensError) as caught:
        encoded(tokenizer, messages, **options)
    message = str(caught.value)
    assert message.startswith("row 1: ")
    assert "\n" not in message
    return message


def test_every_stored_template_is_in_the_table():
    stored = {path.stem for path in FOLDER.glob("*.jinja")}
    assert stored == set(TEMPLATES) == {*EXPECTED, "qwen3"}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_assistant_s_turns_and_their_ends_are_trained_on(name):
    tokenizer = chat_tokenizer(name)
    messages = TURNS if name in WITHOUT_SYSTEM else [SYSTEM, *TURNS]
    found = encoded(tokenizer, messages)
    assert shown(found, tokenizer) == EXPECTED[name]
    # The tokens are those that the tokenizer itself makes of the conversation.
    whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"]
    assert found.ids == whole[: len(found.ids)]
    asking = tokenizer.apply_chat_template(
        messages[:-3], tokenize=True, return_dict=True, add_generation_prompt=True
    )["input_ids"]
    assert found.ids[: found.prompt_length] == asking


@pytest.mark.parametrize("name", EXPECTED)
def test_the_last_turn_alone(name):
    tokenizer = chat_tokenizer(name)
    messages = TURNS if name in WITHOUT_SYSTEM else [SYSTEM, *TURNS]
    whole = shown(encoded(tokenizer, messages), tokenizer)
    found = shown(encoded(tokenizer, messages, "last_turn"), tokenizer)
    before, _, last = whole.rpartition("⟦")
    assert found == before.replace("⟦", "").replace("⟧", "") + "⟦" + last


def test_a_marked_template_has_the_mask_that_transformers_gives():
    tokenizer = chat_tokenizer("qwen2_5_training")
    assert marks_answers(tokenizer)
    found = encoded(tokenizer, [SYSTEM, *TURNS])
    theirs = tokenizer.apply_chat_template(
        [SYSTEM, *TURNS], return_dict=True, return_assistant_tokens_mask=True
    )
    assert found.ids == theirs["input_ids"]
    assert found.is_learnt == [bool(mask) for mask in theirs["assistant_masks"]]


def test_a_mask_without_the_end_of_the_turn_gets_it():
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "+ message['content'] +",
        "}}{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}"
        "{% endgeneration %}{% else %}{{ message['content'] }}{% endif %}{{",
    )
    assert marks_answers(tokenizer)
    assert shown(encoded(tokenizer, [SYSTEM, *TURNS]), tokenizer) == CHATML


def test_marks_around_all_messages_are_refused():
    tokenizer = chat_tokenizer("chatml")
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "+ message['content'] +",
        "}}{% generation %}{{ message['content'] }}{% endgeneration %}{{",
    )
    assert "does not mark what an assistant writes" in refusal(tokenizer, TURNS)


@pytest.mark.parametrize("name", WITHOUT_SYSTEM)
def test_a_system_message_that_a_template_has_no_place_for(name):
    message = refusal(chat_tokenizer(name), [SYSTEM, *TURNS])
    # Gemma's template refuses it; Mistral's moves it to another turn with every question.
    expected = {
        "gemma": "System role not supported); correct it, or change these messages",
        "mistral": "messages[2]: the chat template",
    }
    assert expected[name] in message


def test_a_turn_that_is_printed_otherwise_once_others_follow():
    mistral, qwen3 = chat_tokenizer("mistral"), chat_tokenizer("qwen3")
    assert "use supervise: last_turn" in refusal(mistral, [SYSTEM, *TURNS])
    assert "messages[1]: the chat template prints" in refusal(qwen3, TURNS)
    found = shown(encoded(mistral, [SYSTEM, *TURNS], "last_turn"), mistral)
    assert found.endswith("[INST] Be kind.\n\nBye[/INST]⟦ See you</s>⟧")
    found = shown(encoded(qwen3, TURNS, "last_turn"), qwen3)
    assert found.endswith("assistant\n⟦<think>\n\n</think>\n\nSee you<|im_end|>⟧")
    assert "Hello there<|im_end|>\n" in found


def test_an_assistant_s_thoughts_are_the_template_s_tokens_and_a_user_s_are_text():
    tokenizer = chat_tokenizer("qwen3")
    question = {"role": "user", "content": "Hi <think>"}
    answer = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyo"}
    found = encoded(tokenizer, [question, answer])
    assert shown(found, tokenizer).endswith("⟦<think>\nhm\n</think>\n\nyo<|im_end|>⟧")
    think = tokenizer.convert_tokens_to_ids("<think>")
    assert [place for place, index in enumerate(found.ids) if index == think] == [
        found.prompt_length
    ]


def test_calls_of_tools_are_trained_on_and_their_answers_are_not():
    tokenizer = chat_tokenizer("qwen2_5")
    call = {"function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    messages = [
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "It is 3"},
    ]
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    text = shown(encoded(tokenizer, messages, tools=tools), tokenizer)
    assert '<tools>\n{"type": "function"' in text
    assert text.split("<|im_start|>user\n1 + 2?<|im_end|>\n")[1] == (
        '<|im_start|>assistant\n⟦<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n'
        "</tool_call><|im_end|>⟧\n<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n⟦It is 3<|im_end|>⟧"
    )


def test_what_is_not_an_answer_is_not_trained_on():
    tokenizer = chat_tokenizer("chatml")
    greeting = {"role": "assistant", "content": "Welcome"}
    silent = [{"role": "user", "content": "?"}, {"role": "assistant", "content": " "}]
    messages = [greeting, *silent, *TURNS, {"role": "user", "content": "Still there?"}]
    found = shown(encoded(tokenizer, messages), tokenizer)
    assert found.count("⟦") == 2
    assert "Welcome<|im_end|>" in found
    assert found.endswith("⟦See you<|im_end|>⟧")


def test_a_marked_turn_that_is_no_answer_is_not_trained_on_either():
    """A template marks them all, as the empty one in the middle."""
    tokenizer = chat_tokenizer("qwen2_5_training")
    greeting = {"role": "assistant", "content": "Welcome"}
    silent = [{"role": "user", "content": "?"}, {"role": "assistant", "content": " "}]
    middle = shown(encoded(tokenizer, [*TURNS[:2], *silent, *TURNS[2:]]), tokenizer)
    first = shown(encoded(tokenizer, [greeting, *silent, *TURNS]), tokenizer)
    for found in (middle, first):
        learnt = [text.split("⟧")[0] for text in found.split("⟦")[1:]]
        assert learnt == ["\nHello there<|im_end|>\n", "\nSee you<|im_end|>\n"]
    assert "?<|im_end|>\n<|im_start|>assistant\n <|im_end|>\n" in middle
    last = shown(encoded(tokenizer, [*TURNS[:2], *silent, *TURNS[2:]], "last_turn"), tokenizer)
    assert last.split("⟦")[1:] == ["\nSee you<|im_end|>\n⟧"]


def test_the_prompt_asks_for_the_first_turn_that_is_marked():
    tokenizer = chat_tokenizer("chatml")
    # Marks what an assistant says, and of its calls nothing.
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "+ message['content'] +",
        "}}{{ message.tool_calls or '' }}{% if message.role == 'assistant' %}{% generation %}"
        "{{ message.content }}{% endgeneration %}{% else %}{{ message.content }}{% endif %}{{",
    )
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    calling = {"role": "assistant", "content": "", "tool_calls": [call]}
    messages = [TURNS[0], calling, {"role": "tool", "content": "3"}, *TURNS[1:]]
    found = encoded(tokenizer, messages)
    assert found.first == 3
    asked = tokenizer.decode(found.ids[: found.prompt_length])
    assert asked.endswith("<|im_start|>tool\n3<|im_end|>\n<|im_start|>assistant\n")
    assert found.is_learnt.index(True) == found.prompt_length
    assert shown(found, tokenizer).count("⟦") == 2


def test_a_real_tokenizer_with_merges(shared):
    tokenizer = AutoTokenizer.from_pretrained(shared / "tokenizers" / "qwen2")
    for name in ("qwen2_5", "qwen2_5_training"):
        tokenizer.chat_template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
        messages = [SYSTEM, *TURNS[:1], {"role": "assistant", "content": "  Grüße 🙂\n\n"}]
        found = encoded(tokenizer, messages)
        whole = tokenizer.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True
        )
        assert found.ids == whole["input_ids"][: len(found.ids)]
        learnt = [i for i, mark in zip(found.ids, found.is_learnt, strict=True) if mark]
        if name == "qwen2_5_training":
            assert found.is_learnt == [bool(mask) for mask in whole["assistant_masks"]]
        else:
            assert tokenizer.decode(learnt) == "  Grüße 🙂\n\n<|im_end|>"
