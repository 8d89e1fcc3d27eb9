"""A server that may be away for a while: asked again until it is back, and is the same one."""

import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from eval_harness.backends.server_arguments import Address
from eval_harness.backends.server_messages import Completion, ModelEntry, Models, Version
from eval_harness.errors import DistillensError, RunFailure
from eval_harness.shared.endpoint.http_json import PASSING, EndpointFailure, JsonClient
from eval_harness.shared.endpoint.messages import read
from eval_harness.shared.shortened import shortened

MODELS, COMPLETIONS = "/models", "/completions"
VLLM = "vllm"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0
# A vLLM whose engine has died says so with a 500 before it ends; a request that is wrong gets one
# each time.
_INTERNAL_ERROR, _MOST_INTERNAL_ERRORS = 500, 3
_OVERLOADED = 529
# A gateway says so while there is no server behind it; what it then finds may be another one.
_GATEWAYS = (502, 503, 504)
# What a server is, it can say while it is busy.
_FACTS_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Served:
    """What a server says about its model; a server that is restarted must say the same.

    Attributes:
        id: its name in requests.
        engine: who owns the model, such as "vllm" or "sglang".
        version: of the engine.
        root: the folder or Hub name that it was loaded from.
        parent: the base model of an adapter.
    """

    id: str
    engine: str | None = None
    version: str | None = None
    root: str | None = None
    parent: str | None = None

    def identity(self) -> dict[str, str]:
        """For the fingerprint: what is known of these."""
        return {key: value for key, value in asdict(self).items() if value is not None}


class ServerAwayFailure(RunFailure):
    """A server that was away or busy for too long; it says nothing about what the server can do."""


class Connection:
    """Threads may share it.

    Attributes:
        address: of the server.
        served: what it said when it was first asked.
        max_model_len: longest prompt and answer together; None: it does not say.
        check_weights: called where the server may have been restarted; raises RunFailure if it has
            other weights.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        headers = address.headers()

        def client(url: str, timeout_s: float) -> JsonClient:
            retried = (*PASSING, _OVERLOADED)
            return JsonClient(url, timeout_s=timeout_s, headers=headers, retried=retried)

        quick_s = min(address.timeout_s, _FACTS_TIMEOUT_S)
        self._client = client(address.base_url, address.timeout_s)
        self._facts = client(address.base_url, quick_s)
        self._root = client(address.base_url.removesuffix("/v1"), quick_s)
        self.check_weights: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._is_away = False
        try:
            self.served, self.max_model_len = self._ask_served()
        except RunFailure as error:
            raise DistillensError(
                f"{error}; expected a running OpenAI-compatible server, whose base_url usually "
                "ends in /v1"
            ) from None

    def ask(self, body: dict[str, Any], stop: threading.Event | None = None) -> Completion:
        """The answer to one request; the same request again while the server is away or busy.

        Args:
            stop: ends the waiting.
        Raises:
            RunFailure: no answer in time (ServerAwayFailure: also after many tries), an error, or
                a server with another model.
        """
        stop = stop or threading.Event()
        pause_s, num_errors = _FIRST_PAUSE_S, 0
        away_since: float | None = None
        may_be_another = False
        while True:
            started = time.monotonic()
            try:
                if may_be_another:
                    self._check_same()
                    may_be_another = False
                answer = self.ask_once(body)
                self._is_away = False
                return answer
            except EndpointFailure as failure:
                now = time.monotonic()
                if away_since is None:
                    # A machine that starts again takes no connections, for as long as a try lasts.
                    away_since = now if failure.connected else started
                num_errors += failure.status == _INTERNAL_ERROR
                is_error = failure.status == _INTERNAL_ERROR and num_errors < _MOST_INTERNAL_ERRORS
                if not (failure.may_pass or is_error or not failure.connected):
                    raise
                may_be_another |= failure.status in (None, *_GATEWAYS)
                waits_s = max(pause_s, failure.pause_s)
                if now + waits_s - away_since > self.address.retry_s:
                    raise ServerAwayFailure(
                        f"{failure}; gave up after {now - away_since:.0f} s (retry_s="
                        f"{self.address.retry_s:g}); answers are kept, repeat the command to go on"
                    ) from failure
                self._say_away(failure)
                if stop.wait(waits_s):
                    raise
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def ask_once(self, body: dict[str, Any]) -> Completion:
        """The same without patience.

        Raises:
            EndpointFailure: no answer, an error, or an answer of another form.
        """
        answer = self._client.ask("POST", COMPLETIONS, body, patient=False)
        return read(Completion, answer, self.where)

    @property
    def where(self) -> str:
        """What errors about an answer begin with."""
        return self.address.base_url + COMPLETIONS

    def _ask_served(self) -> tuple[Served, int | None]:
        where = self.address.base_url + MODELS
        models = read(Models, self._facts.ask("GET", MODELS, patient=False), where).data
        entry = self._choose(models)
        served = Served(entry.id, entry.owned_by, self._version(), entry.root, entry.parent)
        return served, entry.max_model_len

    def _choose(self, models: list[ModelEntry]) -> ModelEntry:
        wanted = self.address.model
        found = [entry for entry in models if wanted in (None, entry.id)]
        if len(found) == 1:
            return found[0]
        names = shortened(", ".join(entry.id for entry in models))
        if wanted is None:
            raise EndpointFailure(
                f"{self.address.base_url}: it has {len(models)} models ({names}); give model=NAME"
            )
        raise EndpointFailure(
            f"{self.address.base_url}: it has no model {shortened(wanted)}, but {names}; give "
            "one of these names as model=..."
        )

    def _version(self) -> str | None:
        """vLLM's own; other servers have none, and answer with an error or anything else."""
        try:
            answer = self._root.ask("GET", "/version", patient=False)
            return read(Version, answer, "/version").version
        except EndpointFailure as failure:
            if failure.may_pass:
                raise
            return None

    def _check_same(self) -> None:
        found, _ = self._ask_served()
        if found != self.served:
            raise RunFailure(
                f"{self.address.base_url}: it was restarted as {found.identity()}, but the run "
                f"began with {self.served.identity()}; start it as before, and repeat the command"
            )
        self.check_weights()

    def _say_away(self, failure: EndpointFailure) -> None:
        with self._lock:
            if self._is_away:
                return
            self._is_away = True
        print(
            f"eval-harness: {failure}; waiting for it, up to {self.address.retry_s:g} s",
            file=sys.stderr,
            flush=True,
        )
