"""A small hub on 127.0.0.1, as much of it as the real clients ask for, and a process in which they ask.

Files over a few kilobytes, and safetensors and parquet always, are redirected to an absolute address on another port,
as the hub sends them to its CDN.
"""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

MEMBER = "hf_member"  # a token whose owner accepted the conditions of gated repositories
_ADDRESS = re.compile(
    r"/(?:(?P<api>api)/)?(?:(?P<section>models|datasets)/)?(?P<name>[^/]+(?:/[^/]+)?)"
    r"(?:/(?P<verb>resolve|revision|tree|paths-info|auth-check)(?:/(?P<rest>.*))?)?"
)


@dataclass
class Repository:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # commit -> path -> content
    references: dict[str, str] = field(default_factory=dict)  # branch or tag -> commit
    gated: bool = False


@dataclass
class Hub:
    repositories: dict[str, Repository] = field(default_factory=dict)  # "models/owner/name" -> ...
    moved: dict[str, str] = field(default_factory=dict)  # old name -> new name
    log: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    broken: bool = False  # it describes repositories, and gives no files
    cuts: int = 0  # so many of the next downloads break off in the middle
    endpoint: str = ""
    cdn: str = ""
    silent: threading.Event = field(default_factory=threading.Event)  # while it is set nobody is answered
    woken: threading.Event = field(default_factory=threading.Event)
    connections: list[socket.socket] = field(default_factory=list)

    def add(self, key: str, files: Mapping[str, bytes], *references: str, gated: bool = False) -> str:
        """A commit of `models/owner/name` or `datasets/owner/name`, and what is to point at it; `main` by default."""
        repository = self.repositories.setdefault(key, Repository(gated=gated))
        content = b"".join(name.encode() + files[name] for name in sorted(files))
        commit = hashlib.sha1(key.encode() + content).hexdigest()  # noqa: S324  (git's)
        repository.commits[commit] = dict(files)
        repository.references |= dict.fromkeys(references or ("main",), commit)
        return commit

    def asked(self, part: str) -> list[tuple[str, str, str]]:
        return [entry for entry in self.log if part in entry[1]]


def git_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324  (git's)


def is_large(path: str, content: bytes) -> bool:
    return len(content) > 4096 or path.endswith((".safetensors", ".parquet"))


def etag(path: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if is_large(path, content) else git_digest(content)


class _Answers(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.hub.connections.append(self.connection)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.hub.log.append((self.command, unquote(self.path), self.headers.get("Range", "")))
        if self.hub.silent.is_set():
            self.hub.woken.wait()
            return
        self.answer(urlsplit(self.path))

    do_HEAD = do_POST = do_GET  # noqa: N815

    def answer(self, url: Any) -> None:
        raise NotImplementedError

    def send(self, status: int, headers: Mapping[str, str], content: bytes = b"", cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(content))} | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content[:cut])
        self.close_connection = cut is not None

    def refuse(self, status: int, code: str, **headers: str) -> None:
        self.send(status, {"X-Error-Code": code, "X-Error-Message": code} | headers)


class _HubAnswers(_Answers):
    def answer(self, url: Any) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = _ADDRESS.fullmatch(unquote(url.path))
        if parts is None:
            return self.refuse(404, "EntryNotFound")
        name = parts["name"]
        if name in self.hub.moved:  # a relative address, as for names without an owner
            return self.send(307, {"Location": self.path.replace(name, self.hub.moved[name], 1)})
        repository = self.hub.repositories.get(f"{parts['section'] or 'models'}/{name}")
        if repository is None:
            return self.refuse(401, "RepoNotFound")
        told = self.headers.get("Authorization", "")
        denied = repository.gated and told != f"Bearer {MEMBER}"
        if self.hub.broken and parts["verb"] == "resolve":
            return self.send(403, {})  # of a proxy, say; after 500 the clients try again for long
        if denied and parts["verb"] in ("resolve", "auth-check"):  # anybody may list the files
            return self.refuse(403 if told else 401, "GatedRepo")
        revision, _, path = self.split(repository, parts["rest"] or "main")
        commit = repository.references.get(revision, revision)
        if commit not in repository.commits:
            return self.refuse(404, "RevisionNotFound")
        if parts["verb"] == "resolve":
            return self.resolve(repository.commits[commit], commit, path)
        return self.describe(name, repository, commit, (parts["verb"], path, body))

    @staticmethod
    def split(repository: Repository, rest: str) -> tuple[str, str, str]:
        """Revision and path; a revision may have slashes of its own."""
        for reference in repository.references:
            if rest == reference or rest.startswith(reference + "/"):
                return reference, "/", rest.removeprefix(reference).removeprefix("/")
        return rest.partition("/")

    def resolve(self, files: Mapping[str, bytes], commit: str, path: str) -> None:
        common = {"X-Repo-Commit": commit}
        if path not in files:
            return self.refuse(404, "EntryNotFound", **common)
        content = files[path]
        common["ETag"] = f'"{etag(path, content)}"'
        if not is_large(path, content):
            return self.send(200, common, content)
        linked = {"X-Linked-Etag": common["ETag"], "X-Linked-Size": str(len(content))}
        return self.send(302, common | linked | {"Location": f"{self.hub.cdn}/{etag(path, content)}?signature=1"})

    def describe(self, name: str, repository: Repository, commit: str, asked: tuple[str | None, str, bytes]) -> None:
        files, (verb, path, body) = repository.commits[commit], asked
        found: Any = {"id": name, "sha": commit, "private": False, "gated": "auto" if repository.gated else False}
        found |= {"siblings": [{"rfilename": file} for file in files], "lastModified": "2026-01-01T00:00:00.000Z"}
        if verb == "tree":
            found = list(_tree(files, path, "recursive=true" in self.path.lower()))
            if path and not found:
                return self.refuse(404, "EntryNotFound")
        elif verb == "paths-info":
            fields = json.loads(body) if body.startswith(b"{") else parse_qs(body.decode())
            listed = {entry["path"]: entry for entry in _tree(files, "", True)}
            found = [listed[each] for each in fields.get("paths", ()) if each in listed]
        return self.send(200, {"Content-Type": "application/json"}, json.dumps(found).encode())


def _tree(files: Mapping[str, bytes], inside: str, recursive: bool) -> Iterator[dict[str, Any]]:
    folders = set()
    for path, content in files.items():
        if inside and not path.startswith(inside + "/"):
            continue
        below = path.removeprefix(inside).removeprefix("/").split("/")
        for depth in range(1, len(below)):
            folder = "/".join(filter(None, (inside, *below[:depth])))
            if folder not in folders and (recursive or depth == 1):
                folders.add(folder)
                yield {"type": "directory", "path": folder, "oid": git_digest(folder.encode()), "size": 0}
        if recursive or len(below) == 1:
            entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_digest(content)}
            if is_large(path, content):
                entry["lfs"] = {"oid": etag(path, content), "size": len(content), "pointerSize": 130}
            yield entry


class _CdnAnswers(_Answers):
    def answer(self, url: Any) -> None:
        files = [
            file
            for each in self.hub.repositories.values()
            for commit in each.commits.values()
            for file in commit.items()
        ]
        content = next((content for path, content in files if etag(path, content) == url.path[1:]), None)
        if content is None:
            return self.refuse(404, "EntryNotFound")
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        headers, status, size = {"Accept-Ranges": "bytes"}, 200, len(content)
        if asked:
            start, end = int(asked[1]), int(asked[2] or size - 1)
            headers["Content-Range"], status = f"bytes {start}-{end}/{size}", 206
            content = content[start : end + 1]
        cut = self.command == "GET" and self.hub.cuts > 0
        self.hub.cuts -= cut
        return self.send(status, headers, content, len(content) // 2 if cut else None)


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    """While the block lasts, `hub` answers at `hub.endpoint`; the same addresses every time."""
    servers = []
    for answers, address in ((_HubAnswers, hub.endpoint), (_CdnAnswers, hub.cdn)):
        port = int(address.rpartition(":")[2] or 0)
        server = ThreadingHTTPServer(("127.0.0.1", port), type("Answers", (answers,), {"hub": hub}))
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        servers.append(server)
    hub.endpoint, hub.cdn = (f"http://127.0.0.1:{server.server_port}" for server in servers)
    try:
        yield hub
    finally:
        hub.woken.set()
        for server in servers:
            server.shutdown()
            server.server_close()
        for connection in hub.connections:  # which would be answered for as long as they are kept alive
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


_PROGRAM = """
import json, logging, runpy, sys
logging.basicConfig(level=logging.WARNING, format="%(message)s")
functions = runpy.run_path(sys.argv[1])
for line in sys.stdin:
    name, arguments = json.loads(line)
    try:
        answer = {"result": functions[name](**arguments)}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print("answer " + json.dumps(answer), flush=True)
"""


class Client:
    """A process with the real clients in it, which takes their settings from the environment as a person's does."""

    def __init__(self, program: Path, home: Path, endpoint: str, **environment: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        settings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"} | environment
        settings["FEDJAX_PARADOX_CACHE"] = str(home / "fedjax_paradox")
        settings |= {"no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
        self.errors = (home.parent / f"{home.name}-{len(environment)}.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(program)],
            env=kept | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )

    def __call__(self, function: str, **arguments: Any) -> Any:
        """What a function of the program returns."""
        answer = self.ask(function, arguments)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def refused(self, function: str, **arguments: Any) -> str:
        """The message of the InputError that a function raises."""
        kind, _, message = self.ask(function, arguments).get("error", "nothing").partition(": ")
        assert kind == "InputError", (kind, message)
        return message

    def ask(self, function: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps([function, arguments]) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise AssertionError(f"the process ended: {self.said()[-2000:]}")

    def said(self) -> str:
        """All that it has written to standard error."""
        return Path(self.errors.name).read_text()

    def close(self) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()
        self.errors.close()
