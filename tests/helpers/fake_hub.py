"""A server on loopback that takes models and data sets as the Hub's API does, for its client.

`HF_HUB_DISABLE_XET=1` keeps large files on the LFS way, which this server speaks.
"""

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

USER, ORGANISATION, TOKEN = "ann", "lab", "hf_right"


class FakeHub:
    """Repositories in memory.

    Attributes:
        url: where it listens.
        repos: files by path, by repository.
        visibility: what create_repo asked for, by repository.
        settings: what its settings were changed to, by repository.
        role: of the token.
        broken: a part of a path whose requests fail with `status`.
        calls: methods and paths, in order.
    """

    def __init__(self) -> None:
        self.url = ""
        self.repos: dict[str, dict[str, bytes]] = {}
        self.visibility: dict[str, str | None] = {}
        self.settings: dict[str, dict] = {}
        self.role = "write"
        self.broken: str | None = None
        self.status = 403
        self.calls: list[str] = []
        self.blobs: dict[str, bytes] = {}

    def environment(self) -> dict[str, str]:
        """For a process that is to take this server for the Hub."""
        given = {**os.environ, "HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN}
        return given | {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}

    def whoami(self) -> dict:
        token = {"role": self.role, "displayName": "t"}
        return {
            "type": "user",
            "name": USER,
            "orgs": [{"name": ORGANISATION}],
            "auth": {"type": "access_token", "accessToken": token},
        }

    def create(self, body: dict) -> dict:
        repo = f"{body.get('organization') or USER}/{body['name']}"
        self.repos.setdefault(repo, {})
        self.visibility[repo] = body.get("visibility")
        place = "datasets/" if body.get("type") == "dataset" else ""
        return {"url": f"{self.url}/{place}{repo}", "name": repo}

    def tree(self, repo: str) -> list[dict]:
        return [
            {"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
            for path, content in self.repos[repo].items()
        ]

    def preupload(self, body: dict) -> dict:
        files = [
            {
                "path": file["path"],
                "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                "shouldIgnore": False,
                "oid": None,
            }
            for file in body["files"]
        ]
        return {"files": files}

    def lfs_batch(self, body: dict) -> dict:
        objects = []
        for wanted in body["objects"]:
            actions = {"upload": {"href": f"{self.url}/blob/{wanted['oid']}"}}
            objects.append({"oid": wanted["oid"], "size": wanted["size"], "actions": actions})
        return {"transfer": "basic", "objects": objects}

    def commit(self, repo: str, lines: list[dict]) -> dict:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.repos[repo][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.repos[repo][value["path"]] = self.blobs[value["oid"]]
        oid = hashlib.sha1(json.dumps(lines).encode()).hexdigest()
        url = f"{self.url}/{repo}/commit/{oid}"
        return {"success": True, "commitUrl": url, "commitOid": oid, "hookOutput": ""}


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self, payload: dict | list | bytes, status: int = 200) -> None:
            body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
            self.send_response(status)
            kind = "application/json"
            if self.path.endswith("/objects/batch"):
                kind = "application/vnd.git-lfs+json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            hub.calls.append(f"{self.command} {path}")
            token = self.headers.get("Authorization")
            if hub.broken is not None and hub.broken in path:
                self._answer({"error": "no luck"}, hub.status)
            elif path.startswith("/blob/"):
                hub.blobs[path.removeprefix("/blob/")] = body
                self._answer({})
            elif token != f"Bearer {TOKEN}":
                self._answer({"error": "Invalid username or password."}, 401)
            else:
                self._answer(self._right(path, body))

        def _right(self, path: str, body: bytes) -> dict | list | bytes:
            parts = path.strip("/").split("/")
            if "resolve" in parts:
                start = parts.index("resolve")
                return hub.repos["/".join(parts[start - 2 : start])]["/".join(parts[start + 2 :])]
            if path == "/api/whoami-v2":
                return hub.whoami()
            if path == "/api/validate-yaml":
                return {"errors": [], "warnings": []}
            if path == "/api/repos/create":
                return hub.create(json.loads(body))
            if path.endswith("/info/lfs/objects/batch"):
                return hub.lfs_batch(json.loads(body))
            repo = "/".join(parts[2:4])
            if parts[4:5] == ["preupload"]:
                return hub.preupload(json.loads(body))
            if parts[4:5] == ["commit"]:
                return hub.commit(repo, [json.loads(line) for line in body.splitlines()])
            if parts[4:5] == ["tree"]:
                return hub.tree(repo)
            if parts[4:5] == ["settings"]:
                hub.settings.setdefault(repo, {}).update(json.loads(body))
                return {}
            return {"id": repo, "siblings": [], "sha": "0" * 40}

        do_GET = do_HEAD = do_POST = do_PUT = _do  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            """Silent."""

    return Handler


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A server that runs while the block does."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
