"""JSON over HTTP with a limit on everything: time, size, redirects and tries.

A client library's timeout bounds a single read, so a client can wait forever for a server that
sends a byte now and then. Here a whole answer, retries included, has one deadline.
"""

import json
import random
import ssl
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from socket import SHUT_RDWR, gaierror
from typing import Any
from urllib.parse import urlsplit

from eval_harness.errors import RunFailure

MAX_BYTES = 64 * 2**20
_CHUNK = 2**16
# Faults that may pass: too many requests, a gateway without its server, a server that is starting.
PASSING = (429, 502, 503, 504)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 30.0
# No text has a real key by chance; it may well have one such as EMPTY, and must not be changed.
_LEAST_KEY = 16
# Clients that were refused together should not come back together.
_JITTER = 1.25


class EndpointFailure(RunFailure):
    """A request without a usable answer.

    Attributes:
        status: of the HTTP answer; None if there was none.
        connected: whether the server took the connection.
        may_pass: the same request may succeed later.
        pause_s: how long the server asks to wait before that.
    """

    def __init__(
        self,
        text: str,
        *,
        status: int | None = None,
        connected: bool = True,
        may_pass: bool = False,
        pause_s: float = 0.0,
    ) -> None:
        super().__init__(text)
        self.status = status
        self.connected = connected
        self.may_pass = may_pass
        self.pause_s = pause_s


class _MayPassError(Exception):
    """A fault that may be gone on the next try.

    Args:
        pause_s: how long the server asks to wait.
        status, connected: as in `EndpointFailure`.
    """

    def __init__(
        self,
        text: str,
        *,
        pause_s: float = 0.0,
        status: int | None = None,
        connected: bool = True,
    ) -> None:
        super().__init__(text)
        self.pause_s = pause_s
        self.status = status
        self.connected = connected


@dataclass(frozen=True)
class _Answer:
    status: int
    reason: str
    headers: Message
    body: bytes


class JsonClient:
    """Client of one server; threads may share it. Proxies of the environment are not used.

    Args:
        base_url: http or https, with a port and a path prefix if the server has them.
        timeout_s: longest wait for one answer, all tries together, in seconds.
        headers: sent with every request (an API key); errors do not show their values, and a real
            key (of at least 16 characters) that a server repeats is not in what it answers.
        retried: HTTP statuses that may pass.
        max_bytes: the longest answer that is read; None: MAX_BYTES.

    Attributes:
        num_retries: requests that failed and were repeated.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float,
        headers: Mapping[str, str] | None = None,
        retried: Collection[int] = PASSING,
        max_bytes: int | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._headers = {"Accept": "application/json", "Connection": "close", **(headers or {})}
        # A server may repeat in an error what it was sent.
        self._secrets = [value.split()[-1] for value in (headers or {}).values() if value.strip()]
        self.num_retries = 0
        self._timeout_s = timeout_s
        self._retried = frozenset(retried)
        self._max_bytes = max_bytes
        self._lock = threading.Lock()

    def ask(self, verb: str, path: str, body: object = None, *, patient: bool = True) -> Any:
        """What the server answers, decoded; None for an empty answer.

        Args:
            body: sent as JSON; None sends nothing.
            patient: try again if a connection fails or the server is busy.
        Raises:
            EndpointFailure: no answer in time, an HTTP error, or not JSON; the line names the
                address.
        """
        deadline = time.monotonic() + self._timeout_s
        payload = None if body is None else json.dumps(body).encode()
        pause_s, num_tries = _FIRST_PAUSE_S, 0
        while True:
            num_tries += 1
            try:
                return self._decode(path, self._once(verb, path, payload, deadline))
            except _MayPassError as fault:
                waits_s = max(pause_s, fault.pause_s) * random.uniform(1, _JITTER)
                if not patient or time.monotonic() + waits_s >= deadline:
                    tries = f", {num_tries} tries" if num_tries > 1 else ""
                    if fault.pause_s:
                        tries += f", asked to wait {fault.pause_s:.0f} s"
                    raise EndpointFailure(
                        f"{self.base_url}{path}: {self._hidden(str(fault))}{tries}",
                        status=fault.status,
                        connected=fault.connected,
                        may_pass=True,
                        pause_s=fault.pause_s,
                    ) from fault
                with self._lock:
                    self.num_retries += 1
                time.sleep(waits_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _once(self, verb: str, path: str, payload: bytes | None, deadline: float) -> _Answer:
        late = f"no complete answer within {self._timeout_s:g} s (timeout_s)"
        connection = self._connection(path, deadline)
        headers = dict(self._headers)
        if payload is not None:
            headers["Content-Type"] = "application/json"
        expired = threading.Event()
        connected = False
        try:
            connection.connect()
            connected = True
            with _ended_at(deadline, connection, expired):
                prefix = urlsplit(self.base_url).path
                connection.request(verb, prefix + path, payload, headers)
                response = connection.getresponse()
                body = self._read(path, response)
        except TimeoutError as error:
            raise self._failure(path, late, connected=connected) from error
        except (OSError, HTTPException, ValueError) as error:
            if expired.is_set():
                raise self._failure(path, late) from error
            text = f"the connection failed ({_named(error)})"
            if isinstance(error, ssl.SSLError | gaierror | ValueError):
                raise self._failure(path, text, connected=connected) from error
            raise _MayPassError(text, connected=connected) from error
        finally:
            connection.close()
        if expired.is_set():
            raise self._failure(path, late)
        if response.length:
            raise _MayPassError(f"the last {response.length} bytes of the answer are missing")
        for secret in self._secrets:
            if len(secret) >= _LEAST_KEY:
                body = body.replace(secret.encode("latin-1"), b"***")
        return _Answer(response.status, response.reason, response.headers, body)

    def _connection(self, path: str, deadline: float) -> HTTPConnection:
        try:
            parts = urlsplit(self.base_url)
            kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
            host = parts.hostname or ""
            timeout_s = max(0.001, deadline - time.monotonic())
            return kind(host, parts.port, timeout=timeout_s)
        except (ValueError, HTTPException) as error:
            text = f"not a valid address ({_named(error)})"
            raise self._failure(path, text, connected=False) from error

    def _read(self, path: str, response: HTTPResponse) -> bytes:
        parts, size = [], 0
        limit = MAX_BYTES if self._max_bytes is None else self._max_bytes
        while part := response.read(_CHUNK):
            size += len(part)
            if size > limit:
                raise self._failure(path, f"the answer is longer than {limit / 2**20:g} MiB")
            parts.append(part)
        return b"".join(parts)

    def _decode(self, path: str, answer: _Answer) -> Any:
        if 300 <= answer.status < 400:
            target = self._hidden(answer.headers.get("Location", "nowhere"))
            raise self._failure(
                path,
                f"HTTP {answer.status}, a redirect to {target[:200]}, which is not followed; name "
                "the server's own address",
                status=answer.status,
            )
        if not 200 <= answer.status < 300:
            text = f"HTTP {answer.status}: {_reason(answer)}"
            if answer.status in self._retried:
                pause_s = _seconds(answer.headers.get("Retry-After"))
                raise _MayPassError(text, pause_s=pause_s, status=answer.status)
            raise self._failure(path, text, status=answer.status)
        if not answer.body.strip():
            return None
        kind = answer.headers.get_content_type()
        if kind != "application/json":
            raise self._failure(path, f"found Content-Type {kind}, expected application/json")
        encoding = answer.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise self._failure(path, f"found Content-Encoding {encoding[:40]}, expected none")
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise self._failure(path, f"the answer is not JSON ({_named(error)})") from error

    def _failure(
        self, path: str, text: str, *, status: int | None = None, connected: bool = True
    ) -> EndpointFailure:
        text = f"{self.base_url}{path}: {self._hidden(text)}"
        return EndpointFailure(text, status=status, connected=connected)

    def _hidden(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text


@contextmanager
def _ended_at(
    deadline: float, connection: HTTPConnection, expired: threading.Event
) -> Iterator[None]:
    """Ends every read and write on the connection at the deadline, however slowly bytes arrive."""
    sock = connection.sock

    def end() -> None:
        expired.set()
        with suppress(OSError):  # it is closed already
            sock.shutdown(SHUT_RDWR)

    timer = threading.Timer(max(0.0, deadline - time.monotonic()), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _seconds(retry_after: str | None) -> float:
    """Of a number of seconds, or of a date; 0 if it is neither."""
    text = (retry_after or "").strip()[:40]
    if text.isascii() and text.isdigit() and len(text) < 9:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0


def _named(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _reason(answer: _Answer) -> str:
    """One line of what the server says."""
    try:
        said = json.loads(answer.body)["error"]["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        said = answer.body[:2000].decode(errors="replace") or answer.reason
    return " ".join(str(said).split())[:300]
