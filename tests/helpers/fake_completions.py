"""An OpenAI-compatible server of completions on loopback, as vLLM, or as servers that tell less."""

from typing import Any

from fake_server import MODELS, FakeServer

VERSION = "/version"
NAME = "little"


class FakeCompletions(FakeServer):
    """Answers with tokens that depend on prompt and seed alone.

    Attributes:
        form: of the answers: "ids", "logprobs" or "text".
        scores: how prompts are scored: "prompt_logprobs", "echo" or None.
        entry: of /v1/models.
        version: of /version; None: there is no such call.
        decode: token ids to text, in the form "text".
    """

    def __init__(self) -> None:
        super().__init__()
        self.form = "ids"
        self.scores: str | None = "prompt_logprobs"
        self.entry: dict[str, Any] = {"id": NAME, "owned_by": "vllm", "root": "/models/little"}
        self.entry["max_model_len"] = 512
        self.version: str | None = "0.32.0"
        self.sample = tokens_of
        self.decode = lambda ids: " ".join(map(str, ids))

    def right(self, call: str, body: Any) -> Any:
        if call == MODELS:
            return {"object": "list", "data": [self.entry]}
        if call == VERSION:
            return {"version": self.version} if self.version else {"detail": "Not Found"}
        prompt = body["prompt"]
        if "prompt_logprobs" in body or body.get("echo"):
            return self._scored(prompt, body)
        ids = self.sample(body)
        ended = ids[-1] in body["stop_token_ids"]
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop" if ended else "length"}
        choice["text"] = self.decode(ids[:-1] if ended else ids)
        if self.form == "ids":
            choice |= {"token_ids": ids, "prompt_token_ids": prompt}
        if self.form == "logprobs" and "logprobs" in body:
            tokens = [f"token_id:{token}" for token in ids]
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": [-1.0] * len(ids)}
        usage = {"prompt_tokens": len(prompt), "completion_tokens": len(ids)}
        return {"choices": [choice], "usage": usage}

    def _scored(self, prompt: list[int], body: Any) -> Any:
        values = self.score(prompt)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "text": ""}
        if self.scores == "prompt_logprobs" and "prompt_logprobs" in body:
            entries = zip(prompt[1:], values, strict=True)
            rest = [{str(token): {"logprob": value}} for token, value in entries]
            choice["prompt_logprobs"] = [None, *rest]
        if self.scores == "echo" and body.get("echo"):
            tokens = ["?"] * (len(prompt) + 1)
            choice["logprobs"] = {"tokens": tokens, "token_logprobs": [None, *values, -0.5]}
        return {"choices": [choice]}


def tokens_of(body: dict[str, Any]) -> list[int]:
    """As many as are asked for, or fewer and an end token: by prompt and seed."""
    start = sum(body["prompt"]) + 7 * body.get("seed", 0)
    limit, ends = body["max_tokens"], body["stop_token_ids"]
    if ends and start % 2 and limit > 1:
        limit = 1 + start % (limit - 1)
        return [300 + (start + place) % 700 for place in range(limit)] + ends[:1]
    return [300 + (start + place) % 700 for place in range(limit)]
