"""What stands before a question: a system message, and solved examples of the benchmark."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from eval_harness.benchmarks.rows import Row
from eval_harness.errors import DistillensError
from eval_harness.shared.text.messages import Conversation, Message

# As in lm-eval, an empty line ends an example.
BETWEEN_EXAMPLES = "\n\n"


@dataclass(frozen=True)
class Context:
    """What a task's prompts have before the question.

    Attributes:
        system_instruction: with the template `chat` only; None: no system message.
        examples: rows with their first reference as the answer.
        as_turns: the examples are turns of the conversation, in `chat`; else text before the
            question.
    """

    system_instruction: str | None = None
    examples: tuple[Row, ...] = ()
    as_turns: bool = False

    def __bool__(self) -> bool:
        return self.system_instruction is not None or bool(self.examples)

    def conversation(self, row: Row, *, num_dropped: int = 0) -> Row:
        """The row as a conversation with its context, for the template `chat`.

        Args:
            num_dropped: examples left out, from the first.
        Raises:
            DistillensError: the row has a ready prompt, a second system message, or, where examples
                are text, turns.
        """
        examples = self.examples[num_dropped:]
        messages = list(_messages(row, f"row {row.row_id!r}"))
        if messages[0].role == "system" and (self.system_instruction is not None or examples):
            raise DistillensError(
                f"row {row.row_id!r} has a system message of its own; drop --system_instruction "
                "and --num_fewshot"
            )
        if self.as_turns:
            messages = [*_turns(examples), *messages]
        elif examples:
            messages = [_with_text(examples, messages, row)]
        if self.system_instruction is not None:
            messages.insert(0, Message("system", self.system_instruction))
        tools = row.conversation.tools if row.conversation is not None else ()
        return replace(row, prompt=None, conversation=Conversation(tuple(messages), tools))


def _messages(row: Row, where: str) -> tuple[Message, ...]:
    if row.conversation is not None:
        return row.conversation.messages
    if row.prompt is not None:
        raise DistillensError(
            f"{where} has a ready prompt, which has no place for a system message or examples; "
            "give it an instruction"
        )
    text = f"{row.instruction}\n{row.input}" if row.input else row.instruction
    return (Message("user", text),)


def _turns(examples: Sequence[Row]) -> list[Message]:
    found: list[Message] = []
    for place, example in enumerate(examples):
        messages = _messages(example, f"fewshot[{place}]")
        if messages[0].role == "system":
            raise DistillensError(
                f"fewshot[{place}] has a system message, which can only come first; delete it and "
                "give --system_instruction"
            )
        found += [*messages, Message("assistant", example.references[0])]
    return found


def _with_text(examples: Sequence[Row], messages: Sequence[Message], row: Row) -> Message:
    texts = []
    for place, example in enumerate(examples):
        (question,) = _single(_messages(example, f"fewshot[{place}]"), f"fewshot[{place}]")
        texts.append(f"{question.content}\n{example.references[0]}{BETWEEN_EXAMPLES}")
    (question,) = _single(messages, f"row {row.row_id!r}")
    return Message("user", "".join(texts) + question.content)


def _single(messages: Sequence[Message], where: str) -> Sequence[Message]:
    if len(messages) != 1:
        raise DistillensError(
            f"{where} has {len(messages)} messages, but examples as one text need one question; "
            "drop --fewshot_as_multiturn false"
        )
    return messages
