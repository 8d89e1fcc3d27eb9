"""Trains the quickstart's tokenizer: byte-level BPE, 2048 entries, on the prompts and responses.

    python recipes/quickstart/make_tokenizer.py

Digits stand alone (the first with the space before it), so numbers are always split the same way.
<|endoftext|> ends a text and pads.
"""

import json
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from eval_harness.shared.files.jsonl import read_jsonl

NUM_ENTRIES = 2048
END = "<|endoftext|>"


def main() -> None:
    """Writes tokenizer.json and tokenizer_config.json to tokenizer/ beside this script."""
    folder = Path(__file__).parent
    rows = [row for _, row in read_jsonl(folder / "train.jsonl")]
    texts = [row[key] for row in rows for key in ("instruction", "output")]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=NUM_ENTRIES,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=END,
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    fast.save_pretrained(folder / "tokenizer")
    # transformers 5 writes a class name of its own that version 4 and other libraries don't know.
    path = folder / "tokenizer" / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.pop("backend", None)
    path.write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
