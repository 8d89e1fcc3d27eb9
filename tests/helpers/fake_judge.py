"""An OpenAI-compatible chat endpoint on loopback that judges as it is told, or misbehaves."""

import re
import threading
from collections.abc import Callable
from typing import Any

from fake_server import MODELS, FakeServer, send

CHAT = "/v1/chat/completions"
MODEL = "judge-1"
_ANSWERS = re.compile(r"<answer_a>\n(.*?)\n</answer_a>.*<answer_b>\n(.*?)\n</answer_b>", re.DOTALL)


def longer(a: str, b: str) -> str:
    """A fair judge: it prefers the longer answer, wherever it stands."""
    return "[[C]]" if len(a) == len(b) else "[[A]]" if len(a) > len(b) else "[[B]]"


class FakeJudge(FakeServer):
    """Answers each message with what `decide` says about its two answers.

    Attributes:
        decide: the judge's text, for (answer A, answer B).
        finish_reason: of all its texts.
        headers: those of each chat request.
        most_at_once: requests that were being answered together.
        together: with a number, requests wait until so many are there.
    """

    def __init__(self, decide: Callable[[str, str], str] = longer) -> None:
        super().__init__()
        self.decide = decide
        self.finish_reason = "stop"
        self.models: Any = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
        self.headers: list[dict[str, str]] = []
        self.most_at_once = 0
        self.together: threading.Barrier | None = None
        self._at_once = 0
        self._lock = threading.Lock()
        self.faults[CHAT] = self.answer

    @property
    def messages(self) -> list[str]:
        """What was asked, in order."""
        return [body["messages"][0]["content"] for call, body in self.calls if call == CHAT]

    def right(self, call: str, body: Any) -> Any:
        if call == MODELS:
            return self.models
        if call != CHAT:
            return super().right(call, body)
        message = body["messages"][-1]["content"]
        found = _ANSWERS.search(message)
        text = self.decide(*found.groups()) if found else "[[C]]"
        choice = {"index": 0, "message": {"role": "assistant", "content": text}}
        choice["finish_reason"] = self.finish_reason
        usage = {"prompt_tokens": len(message.split()), "completion_tokens": len(text.split())}
        # A client ignores what it does not know; tests choose rows by it.
        more = {"id": "1", "object": "chat.completion", "usage": usage, "asked": message}
        return {"model": f"{MODEL}-0613", "choices": [choice], **more}

    def answer(self, handler: Any, right: Any) -> None:
        """What happens where there is no fault."""
        with self._lock:
            self.headers.append(dict(handler.headers))
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
        if self.together is not None:
            self.together.wait(timeout=30)
        with self._lock:
            self._at_once -= 1
        send(handler, right)

    def only_for(self, part: str, fault: Callable[[Any, Any], None]) -> None:
        """Misbehaves for messages that contain `part`."""

        def chosen(handler: Any, right: Any) -> None:
            (fault if part in right["asked"] else self.answer)(handler, right)

        self.faults[CHAT] = chosen
