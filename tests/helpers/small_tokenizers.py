"""Tokenizers of many kinds, made here in milliseconds: nothing is downloaded."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIGNS = ["<|im_start|>", "<|im_end|>"]


def byte_level(*, signs: bool = True, **settings: Any) -> PreTrainedTokenizerFast:
    """One token a byte; the end token is </s>, as in the vocabularies of GPT-2 and Qwen."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({byte: i for i, byte in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="</s>", **settings
    )
    if signs:
        made.add_tokens(SIGNS, special_tokens=True)
        made.chat_template = CHATML
    return made


def with_first_token(tokenizer: Any, bos: str = "<s>", *, ends_too: bool = False) -> Any:
    """The tokenizer, now beginning every text with a token of its own (and ending it with one)."""
    tokenizer.add_special_tokens({"bos_token": bos})
    eos = tokenizer.eos_token
    end = f" {eos}" if ends_too else ""
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A{end}",
        pair=f"{bos} $A $B",
        special_tokens=[(bos, tokenizer.bos_token_id), (eos, tokenizer.eos_token_id)],
    )
    return tokenizer


def sentence_pieces(kind: str) -> PreTrainedTokenizerFast:
    """As converted from SentencePiece, whose vocabulary holds <s> and </s>.

    Args:
        kind: "bpe" (Llama 2, with its normaliser), "unigram" (T5) or "first" (Metaspace that puts
            a space before the first word alone).
    """
    characters = ["▁", *"abcdefghijklmnopqrstuvwxyzABHMST.:?#\n|<>/_[]0123456789"]
    pieces = ["<unk>", "<s>", "</s>", *characters, "▁a", "in", "▁say", "nd"]
    if kind == "unigram":
        # The control pieces' score of 0 is the best there is, as in the files that are around.
        scores = [0.0 if piece in ("<unk>", "<s>", "</s>") else -2.0 for piece in pieces]
        backend = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=0))
    else:
        vocabulary = {piece: index for index, piece in enumerate(pieces)}
        merges = [("▁", "a"), ("i", "n"), ("n", "d")]
        vocabulary |= {"ay": len(vocabulary), "say": len(vocabulary) + 1}
        merges += [("a", "y"), ("s", "ay"), ("▁", "say")]
        backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True))
    if kind == "bpe":
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        scheme = "first" if kind == "first" else "always"
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )
    made.add_tokens(SIGNS, special_tokens=True)
    made.chat_template = CHATML
    return made


class WordTokenizer(PreTrainedTokenizer):
    """A slow tokenizer whose end token is a word of its vocabulary, so no text can avoid it."""

    def __init__(self, **settings: Any) -> None:
        self._words = ["?", "</s>", "say", "hi", "user", "[end]", "[turn]"]
        super().__init__(unk_token="?", eos_token="</s>", pad_token="</s>", **settings)

    @property
    def vocab_size(self) -> int:
        return len(self._words)

    def get_vocab(self) -> dict[str, int]:
        return {word: index for index, word in enumerate(self._words)} | self.added_tokens_encoder

    def _tokenize(self, text: str, **settings: Any) -> list[str]:
        return text.split()

    def _convert_token_to_id(self, token: str) -> int:
        return self._words.index(token) if token in self._words else 0

    def _convert_id_to_token(self, index: int) -> str:
        return self._words[index]
