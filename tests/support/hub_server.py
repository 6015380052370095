"""A stand-in for the Hugging Face Hub on the loopback interface, for the real client libraries.

It implements the part of the Hub's protocol that they use to resolve, list and download. It can
cut files off or serve other content than it lists.
"""

import gzip
import hashlib
import json
import re
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+?)(?:/(revision|tree|paths-info)/(.+))?")
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class Repository:
    """A repository.

    Attributes:
        commits: the files of every commit, by path.
        branches: the commit to which each branch points.
    """

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def push(self, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit, point `branch` to it and return its hash."""
        commit = hashlib.sha1(repr((len(self.commits), sorted(files.items()))).encode())
        self.commits[commit.hexdigest()] = files
        self.branches[branch] = commit.hexdigest()
        return commit.hexdigest()


class HubServer:
    """The server, in a thread of its own; use it as a context manager.

    Attributes:
        repositories: repositories by kind and name.
        cut_off: paths of which only the first half is sent.
        swapped: content by path that is sent instead of the listed one.
        headers: headers of files that are sent instead of the right ones.
        compressed: whether listings are compressed, although nobody asked for it.
        endless: paths whose content never ends.
        requests: method and path of every request.
    """

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.cut_off: set[str] = set()
        self.swapped: dict[str, bytes] = {}
        self.headers: dict[str, str] = {}
        self.compressed = False
        self.endless: set[str] = set()
        self.requests: list[str] = []
        self._server: ThreadingHTTPServer | None = None

    def repository(self, kind: str, name: str) -> Repository:
        """Return the repository of a kind (models or datasets), created at the first call."""
        return self.repositories.setdefault((kind, name), Repository())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HubServer":
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: str = "") -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if found := API.fullmatch(path):
            self._api(*found.groups(), body)
        elif found := FILE.fullmatch(path):
            kind, name, revision, file = found.groups()
            self._file("datasets" if kind else "models", name, revision, file)
        else:
            self._fail(404, "EntryNotFound")

    def _commit(self, kind: str, name: str, revision: str) -> str | None:
        """Return the commit of a revision, or send the Hub's error and return None."""
        repository = self.hub.repositories.get((kind, name))
        if repository is None:
            self._fail(404, "RepoNotFound")
            return None
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            self._fail(404, "RevisionNotFound")
            return None
        return commit

    def _api(self, kind: str, name: str, verb: str | None, rest: str | None, body: str) -> None:
        revision, _, folder = (rest or "main").partition("/")
        commit = self._commit(kind, name, revision)
        if commit is None:
            return
        files = self.hub.repositories[kind, name].commits[commit]
        if verb == "paths-info":
            paths = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
            self._json([self._entry(p, c) for p, c in files.items() if p in paths])
        elif verb == "tree":
            self._tree(files, folder)
        else:
            siblings = [{"rfilename": path} for path in files]
            self._json({"id": name, "sha": commit, "siblings": siblings, "tags": []})

    def _tree(self, files: dict[str, bytes], folder: str) -> None:
        prefix = f"{folder}/" if folder else ""
        inside = {path: content for path, content in files.items() if path.startswith(prefix)}
        if folder and not inside:
            return self._fail(404, "EntryNotFound")
        query = parse_qs(urlsplit(self.path).query)
        entries = [self._entry(path, content) for path, content in inside.items()]
        folders = {path.rpartition("/")[0] for path in inside} - {"", folder}
        entries += [{"type": "directory", "path": path, "oid": "0" * 40} for path in folders]
        if query.get("recursive", ["false"])[0].lower() != "true":
            entries = [e for e in entries if "/" not in e["path"].removeprefix(prefix)]
        self._json(entries)

    @staticmethod
    def _entry(path: str, content: bytes) -> dict:
        """Return a file's entry in the Hub's listing; large formats are in git-lfs."""
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry = {"type": "file", "path": path, "size": len(content), "oid": blob}
        if path.endswith((".parquet", ".safetensors", ".bin")):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 130}
        return entry

    def _file(self, kind: str, name: str, revision: str, path: str) -> None:
        commit = self._commit(kind, name, revision)
        if commit is None:
            return
        files = self.hub.repositories[kind, name].commits[commit]
        if path not in files:
            return self._fail(404, "EntryNotFound", commit)
        entry = self._entry(path, files[path])
        content = self.hub.swapped.get(path, files[path])
        self.send_response(200)
        digest = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
        headers = {
            "X-Repo-Commit": commit,
            "ETag": f'"{digest}"',
            "Content-Length": str(len(content)),
            **self.hub.headers,
        }
        if path in self.hub.endless:
            del headers["Content-Length"]
            headers["Transfer-Encoding"] = "chunked"
        for name, value in headers.items():
            self.send_header(name, value)
        cut = path in self.hub.cut_off
        if cut:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if path in self.hub.endless:
            self._send_without_end()
        elif self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if cut else content)

    def _send_without_end(self) -> None:
        with suppress(OSError):
            while self.command == "GET":
                self.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
        self.close_connection = True

    def _json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        if self.hub.compressed:
            content = gzip.compress(content)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _fail(self, status: int, code: str, commit: str | None = None) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        if commit:
            self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", "0")
        self.end_headers()
