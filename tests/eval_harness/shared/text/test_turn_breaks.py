"""An answer follows the tokens that ask for it, whatever it begins with."""

import pytest
from small_tokenizers import CHATML, SIGNS, WordTokenizer, byte_level, sentence_pieces
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from eval_harness.shared.text.conversation_parts import conversation_parts
from eval_harness.shared.text.messages import read_conversation
from eval_harness.shared.text.tokenisation import Outcome, TextEncoder
from eval_harness.shared.text.turn_tokens import encode_turns

ANSWERS = ["\n\nyes", "  \n yes", " yes", "yes", "\u2028yes", "\u0301e"]
QUESTIONS = ["hi", "hi<|im_end|>\n", "  hi\n\n"]
# They ask with one line break, with two (GPT-2 divides these once a word follows), with a space,
# and with words alone, of which none is a token that nothing joins.
TEMPLATES = {
    "chatml": CHATML,
    "two breaks": CHATML.replace("}}\n{{", "}}\n\n{{").replace("assistant\n", "assistant\n\n"),
    "space": CHATML.replace("}}\n{{", "}}: {{").replace("assistant\n", "assistant: "),
    "words": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}",
}


def joining() -> PreTrainedTokenizerFast:
    """Byte-level, with tokens of two line breaks, of spaces and of a space and a letter."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ċ", "Ċ"), ("Ġ", "Ġ"), ("Ġ", "y"), ("e", "s")]
    pieces = [*alphabet, *(left + right for left, right in merges)]
    backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", pad_token="</s>")
    made.add_tokens(SIGNS, special_tokens=True)
    return made


_MADE = {"bytes": byte_level, "joining": joining, "slow": WordTokenizer}


def tokenizer_of(kind, request):
    if kind in ("qwen2", "gpt2"):
        made = AutoTokenizer.from_pretrained(
            request.getfixturevalue("shared") / "tokenizers" / kind
        )
    elif kind in _MADE:
        made = _MADE[kind]()
    else:
        made = sentence_pieces(kind)
    made.add_tokens(SIGNS, special_tokens=True)
    return made


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize(
    "kind", ["bytes", "joining", "bpe", "unigram", "first", "slow", "qwen2", "gpt2"]
)
def test_training_s_prompt_is_the_one_that_a_model_is_asked_with(kind, template, request):
    tokenizer = tokenizer_of(kind, request)
    tokenizer.chat_template = TEMPLATES[template]
    encoder = TextEncoder(tokenizer, template="chat")
    for answer in ANSWERS:
        for question in QUESTIONS:
            turns = [
                {"role": "user", "content": question},
                {"role": "assistant", "content": answer},
            ]
            whole = read_conversation({"messages": [*turns, *turns]}, "x")
            for supervise, asked in (("all_turns", 1), ("last_turn", 3)):
                (found,) = encode_turns([whole], encoder, supervise=supervise, places=["x"])
                parts = conversation_parts(whole.before(asked), tokenizer)
                assert found.ids[: found.prompt_length] == encoder.prompt(parts).ids
                assert found.is_learnt[found.prompt_length]
                assert not any(found.is_learnt[: found.prompt_length])


def test_the_text_is_cut_where_a_token_would_join_and_nowhere_else():
    tokenizer = joining()
    tokenizer.chat_template = CHATML
    encoder = TextEncoder(tokenizer, template="chat")
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "\n yes"}]
    messages += [{"role": "user", "content": "\n  hi"}, {"role": "assistant", "content": " yes"}]
    whole = read_conversation({"messages": messages}, "x")
    (found,) = encode_turns([whole], encoder, supervise="all_turns", places=["x"])
    theirs = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False).rstrip()).input_ids
    (double,) = tokenizer("\n\n").input_ids
    # apply_chat_template joins the line break before the first answer and the question's own.
    assert (theirs.count(double), found.ids.count(double)) == (2, 1)
    place = found.prompt_length - 1
    (single,) = tokenizer("\n").input_ids
    assert theirs == [*found.ids[:place], double, *found.ids[place + 2 :]]
    assert found.ids[place : place + 2] == [single, single]
    assert found.is_learnt[place : place + 2] == [False, True]
    assert found.outcome is Outcome.ORDINARY
