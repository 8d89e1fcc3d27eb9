"""A server on loopback that answers as vLLM does, and then as it is told to misbehave."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS, RELOAD, FORGET = "/v1/models", "/collective_rpc", "/reset_prefix_cache"
SAMPLE, SCORE = "sample", "score"  # both at /v1/completions
EOS = 2
Fault = Callable[[BaseHTTPRequestHandler, Any], None]


class FakeServer:
    """Answers every call; `faults` has what is done instead, by call.

    Attributes:
        url: where it listens.
        faults: a fault by call (MODELS, RELOAD, FORGET, SAMPLE, SCORE), or a list of them, one a
            request, after which answers are right again.
        calls: what was asked, in order: (call, body).
        score: log-probabilities [T - 1] of token ids [T].
        reload: called with the folder of new weights.
    """

    def __init__(self) -> None:
        self.faults: dict[str, Fault | list[Fault]] = {}
        self.calls: list[tuple[str, Any]] = []
        self.score: Callable[[list[int]], list[float]] = lambda ids: [-1.5] * (len(ids) - 1)
        self.sample: Callable[[dict[str, Any]], list[int]] = lambda body: [5, 6, EOS]
        self.reload: Callable[[str], None] = lambda folder: None
        self.max_model_len: Any = 256
        self.url = ""

    def right(self, call: str, body: Any) -> Any:
        """What vLLM would answer."""
        if call == MODELS:
            return {"object": "list", "data": [{"id": "m", "max_model_len": self.max_model_len}]}
        if call == RELOAD:
            self.reload(body["kwargs"]["weights_path"])
            return {"results": [None]}
        if call == FORGET:
            return {"success": True}
        if call == SCORE:
            scores = zip(body["prompt"][1:], self.score(body["prompt"]), strict=True)
            entries = [{str(token): {"logprob": value, "rank": 1}} for token, value in scores]
            return {"choices": [{"prompt_logprobs": [None, *entries]}]}
        ids = self.sample(body)
        reason = "stop" if ids[-1:] == [EOS] else "length"
        return {"choices": [{"index": 0, "token_ids": ids, "finish_reason": reason}]}


def send(handler: Any, payload: Any, *, status: int = 200, **headers: str) -> None:
    """A whole answer; `payload` is sent as it is where it is bytes."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    handler.send_response(status)
    given = {"Content_Type": "application/json", "Content_Length": str(len(body)), **headers}
    for name, value in given.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def answering(payload: Any, **more: Any) -> Fault:
    """Always the same."""
    return lambda handler, right: send(handler, payload, **more)


def changing(change: Callable[[Any], Any]) -> Fault:
    """The right answer, changed in place (or what is returned, if anything is)."""

    def fault(handler: Any, right: Any) -> None:
        changed = change(right)
        send(handler, right if changed is None else changed)

    return fault


def status(code: int, **headers: str) -> Fault:
    message = {"error": {"message": f"no luck\nwith {code}"}}
    return lambda handler, right: send(handler, message, status=code, **headers)


def reset(handler: Any, right: Any) -> None:
    """The connection is thrown away without a word."""
    linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    handler.connection.close()
    handler.wfile = handler.rfile = _Nothing()


def dripping(headers: bool) -> Fault:
    """One byte every 50 ms, of the headers or of the body."""

    def fault(handler: Any, right: Any) -> None:
        body = json.dumps(right).encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        head += b"Content-Length: %d\r\n\r\n" % (len(body) + 10_000)
        whole = head + body if headers else body + b" " * 10_000
        try:
            if not headers:
                handler.wfile.write(head)
            for byte in whole:
                handler.wfile.write(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass  # the client has had enough

    return fault


def silent(handler: Any, right: Any) -> None:
    time.sleep(3)


class _Nothing:
    closed = True

    def close(self) -> None: ...
    def flush(self) -> None: ...
    def readline(self, *args: Any) -> bytes:
        return b""


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._do(self.path, None)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            call = self.path
            if call == "/v1/completions":
                call = SCORE if "prompt_logprobs" in body else SAMPLE
            self._do(call, body)

        def _do(self, call: str, body: Any) -> None:
            server.calls.append((call, body))
            fault = server.faults.get(call)
            if isinstance(fault, list):
                fault = fault.pop(0) if fault else None
            right = server.right(call, body)
            if fault is None:
                send(self, right)
            else:
                fault(self, right)

        def log_message(self, *args: Any) -> None:
            """Tests are quiet."""

        def handle(self) -> None:
            try:
                super().handle()
            except (OSError, ValueError):
                self.close_connection = True

    return Handler


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    # With five, a client of many threads waits a second for its next try to connect.
    request_queue_size = 128


@contextmanager
def running(server: FakeServer) -> Iterator[FakeServer]:
    """Listens on a free port until the block ends."""
    http = _Http(("127.0.0.1", 0), _handler(server))
    server.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join()
