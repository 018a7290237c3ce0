"""
A Hugging Face Hub of its own, on a local port: the protocol that the stock client speaks, over real sockets.

Contents are kept by their hash and commits by their parents, as git does, so that a revision may be a commit, a branch,
a tag or a pull request. Large files come by LFS, or through the client's own Xet code, whose store is then a folder.
"""

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

USERS = {
    "hf_writeTokenOfAliceForTheseTests0001": ("alice", "write"),
    "hf_readTokenOfAliceForTheseTests00002": ("alice", "read"),
    "hf_writeTokenOfBobForTheseTests000003": ("bob", "write"),
}
ALICE, ALICE_READS, BOB = USERS

LARGE_FILE_BYTES = 10 * 2**20
LARGE_FILE_ENDINGS = (".safetensors", ".bin", ".pt", ".parquet", ".onnx")
KINDS = ("models", "datasets", "spaces")
SPACE_COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
LICENSES = {"apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc0-1.0", "gpl-3.0", "unknown", "other"}


class HubRefusal(Exception):
    """An answer that is no success: the status, the Hub's code for it, and its words."""

    def __init__(self, status: int, message: str, code: str | None = None, commit: str | None = None):
        super().__init__(message)
        self.status, self.code, self.commit = status, code, commit


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class File:
    """A file in a commit; one of the large storage has the SHA-256 that it is kept by."""

    oid: str
    size: int
    sha256: str | None = None


@dataclass(frozen=True)
class Commit:
    sha: str
    parent: str | None
    title: str
    author: str
    tree: dict[str, File]


@dataclass
class Repo:
    kind: str
    name: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, tree: dict[str, File], title: str, author: str, parent: str | None) -> str:
        described = json.dumps([parent, title, author, {path: file.oid for path, file in tree.items()}, time.time_ns()])
        sha = hashlib.sha1(described.encode()).hexdigest()
        self.commits[sha] = Commit(sha, parent, title, author, tree)
        self.refs[ref] = sha
        return sha

    def ref_of(self, revision: str) -> str | None:
        candidates = (revision, f"refs/heads/{revision}", f"refs/tags/{revision}")
        return next((ref for ref in candidates if ref in self.refs), None)

    def at(self, revision: str) -> Commit:
        ref = self.ref_of(revision)
        found = self.commits.get(self.refs[ref] if ref else revision)
        if found is None:
            raise HubRefusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found


@dataclass
class Fault:
    """What is to go wrong: the `skip`+1st request and the following `times` of a kind are not served."""

    method: str
    path: str
    how: int | str | Callable[[], object]
    skip: int = 0
    times: int = 1


class HubServer:
    """The Hub's state, and the server of it; `requests` is what was asked for, and how it was answered."""

    def __init__(self, xet_store: Path | None = None):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.contents: dict[str, bytes] = {}
        self.large: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int]] = []
        self.xet_store = xet_store
        # Set when a fault of the kind "hang" holds a request back.
        self.is_hanging = threading.Event()
        self.lock = threading.RLock()

    @contextlib.contextmanager
    def running(self) -> Iterator["HubServer"]:
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as probe:
            port = probe.getsockname()[1]
        handler = type("Handler", (HubRequestHandler,), {"hub": self})
        server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{port}"
        # Contents come from another host than the pages, and so without the token.
        self.cdn_url = f"http://localhost:{port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()

    def fail(
        self, method: str, path: str, how: int | str | Callable[[], object], *, skip: int = 0, times: int = 1
    ) -> None:
        """
        Answer matching requests with a status, "drop" the connection, or "hang" in the middle of the body.

        A function is called just before the request is served.
        """
        self.faults.append(Fault(method, path, how, skip, times))

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.method == method and re.search(fault.path, path):
                    if fault.skip:
                        fault.skip -= 1
                    elif fault.times:
                        fault.times -= 1
                        return fault
        return None

    def asked(self, method: str, path: str) -> list[tuple[str, str, int]]:
        return [entry for entry in self.requests if entry[0] == method and re.search(path, entry[1])]

    def content(self, kind: str, name: str, path: str, revision: str = "main") -> bytes:
        return self.content_of(self.repos[kind, name].at(revision).tree[path])

    def files(self, kind: str, name: str, revision: str = "main") -> dict[str, bytes]:
        tree = self.repos[kind, name].at(revision).tree
        return {path: self.content_of(file) for path, file in tree.items()}

    def content_of(self, file: File) -> bytes:
        return self.large[file.sha256] if file.sha256 else self.contents[file.oid]

    def stored(self, content: bytes) -> File:
        oid = git_hash(content)
        self.contents[oid] = content
        return File(oid, len(content))

    def stored_large(self, sha256: str) -> File:
        if sha256 not in self.large and self.xet_store:
            self.receive_from_xet(sha256)
        if sha256 not in self.large:
            raise HubRefusal(400, f"The LFS object {sha256} was never uploaded.")
        size = len(self.large[sha256])
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        return File(git_hash(pointer.encode()), size, sha256)

    def xet_hash(self, sha256: str) -> tuple[str, int] | None:
        """Return the hash and size by which the Xet store knows a file, as its shards tell."""
        wanted = words(bytes.fromhex(sha256))
        for shard in (self.xet_store or Path()).rglob("*.mdb"):
            data = shard.read_bytes()
            place = data.find(wanted)
            # The file's header, its segments and their checks stand before its SHA-256, in rows of 48 bytes.
            for rows in range(1, 200):
                start = place - 48 * rows
                if place < 0 or start < 0:
                    break
                segments = int.from_bytes(data[start + 36 : start + 40], "little")
                flags = int.from_bytes(data[start + 32 : start + 36], "little")
                if segments and rows == 1 + segments * (2 if flags >> 31 else 1):
                    entries = [start + 48 * (1 + number) for number in range(segments)]
                    size = sum(int.from_bytes(data[entry + 36 : entry + 40], "little") for entry in entries)
                    return words(data[start : start + 32]).hex(), size
        return None

    def receive_from_xet(self, sha256: str) -> None:
        import hf_xet

        found = self.xet_hash(sha256)
        if found is None:
            return
        aside = (self.xet_store or Path()) / f"{sha256}.received"
        group = hf_xet.XetSession().new_file_download_group(
            endpoint=f"local://{self.xet_store}", token="token", token_expiry_unix_secs=int(time.time()) + 3600
        )
        with group:
            group.start_download_file(hf_xet.XetFileInfo(*found), str(aside))
        content = aside.read_bytes()
        assert hashlib.sha256(content).hexdigest() == sha256
        self.large[sha256] = content


def words(digest: bytes) -> bytes:
    """Return a hash with its four words of eight bytes each the other way round, between Xet's two ways to write it."""
    return b"".join(digest[start : start + 8][::-1] for start in range(0, 32, 8))


class HubRequestHandler(BaseHTTPRequestHandler):
    """One request to the Hub; the routes stand at the end."""

    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing: `requests` remembers."""

    def handle_one_request(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle_one_request()

    def serve(self) -> None:
        split = urlsplit(self.path)
        self.query = parse_qs(split.query)
        path = split.path
        method = self.command
        fault = self.hub.fault_for(method, path)
        if fault and fault.how in ("drop", "hang"):
            length = int(self.headers.get("Content-Length") or 0)
            self.rfile.read(length // 2)
            self.hub.requests.append((method, path, 0))
            if fault.how == "hang":
                self.hub.is_hanging.set()
                with contextlib.suppress(OSError):
                    # Until the client is gone.
                    while self.connection.recv(65536):
                        pass
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.body = self.read_body()
        try:
            if fault and callable(fault.how):
                fault.how()
            elif fault:
                raise HubRefusal(int(fault.how), "This is a rehearsed failure.")
            for route_method, pattern, answer in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and method in (route_method, "HEAD" if route_method == "GET" else route_method):
                    with self.hub.lock:
                        answer(self, **{name: unquote(value or "") for name, value in match.groupdict().items()})
                    return
            raise HubRefusal(404, f"There is no {method} {path} here.")
        except HubRefusal as refusal:
            headers = {"X-Error-Message": str(refusal), "X-Error-Code": refusal.code, "X-Repo-Commit": refusal.commit}
            if refusal.status == 429:
                headers["RateLimit"] = '"api";r=0;t=55'
            self.answer(refusal.status, {"error": str(refusal)}, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def json(self) -> Any:
        return json.loads(self.body or b"{}")

    def answer(self, status: int, content: Any = b"", headers: dict[str, str | None] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        headers = {"Content-Type": "application/octet-stream" if body is content else "application/json"} | (
            headers or {}
        )
        self.hub.requests.append((self.command, urlsplit(self.path).path, status))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    # Who asks, and what they may.

    def user(self) -> tuple[str | None, str]:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ").strip()
        if not token:
            return None, "none"
        if token not in USERS:
            raise HubRefusal(401, "Invalid credentials in Authorization header")
        return USERS[token]

    def repo(self, kind: str, name: str) -> Repo:
        user, _ = self.user()
        found = self.hub.repos.get((kind, name))
        if found is None or (found.private and user != name.split("/")[0]):
            raise HubRefusal(404 if user else 401, "Repository not found", "RepoNotFound")
        if found.gated and user != name.split("/")[0]:
            raise HubRefusal(403 if user else 401, "Access to this repository is restricted.", "GatedRepo")
        return found

    def may_write(self, name: str, *, by_pull_request: bool = False) -> str:
        user, role = self.user()
        if user is None:
            raise HubRefusal(401, "Invalid username or password.")
        if role != "write":
            raise HubRefusal(403, "Forbidden: you must use a write token to upload to a repository.")
        if user != name.split("/")[0] and not by_pull_request:
            raise HubRefusal(403, f"Forbidden: you are not authorized to write to {name}.")
        return user

    # The answers.

    def whoami(self) -> None:
        user, role = self.user()
        if user is None:
            raise HubRefusal(401, "Invalid username or password.")
        token = {"displayName": "tests", "role": role}
        self.answer(
            200,
            {"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token", "accessToken": token}},
        )

    def check_write_access(self, kind: str, name: str) -> None:
        self.repo(kind, name)
        self.may_write(name)
        self.answer(200, {})

    def create_repo(self) -> None:
        asked = self.json()
        kind = f"{asked.get('type') or 'model'}s"
        user, role = self.user()
        if user is None:
            raise HubRefusal(401, "Invalid username or password.")
        owner = asked.get("organization") or user
        name = f"{owner}/{asked['name']}"
        if role != "write" or owner != user:
            raise HubRefusal(403, f'You don\'t have the rights to create a {kind[:-1]} under the namespace "{owner}"')
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if (kind, name) in self.hub.repos:
            self.answer(409, {"error": f"You already created this {kind[:-1]} repo", "url": url})
            return
        if kind == "spaces" and not asked.get("sdk"):
            raise HubRefusal(400, "A Space needs an sdk.")
        repo = Repo(kind, name, private=asked.get("visibility") == "private")
        attributes = "".join(f"*{end} filter=lfs diff=lfs merge=lfs -text\n" for end in LARGE_FILE_ENDINGS)
        repo.commit(
            "refs/heads/main", {".gitattributes": self.hub.stored(attributes.encode())}, "initial commit", user, None
        )
        self.hub.repos[kind, name] = repo
        self.answer(200, {"url": url, "name": name, "id": name})

    def validate_yaml(self) -> None:
        asked = self.json()
        errors = card_errors(asked["content"], asked.get("repoType") or "model")
        found = {"errors": [{"message": error} for error in errors], "warnings": []}
        self.answer(400 if errors else 200, found)

    def info(self, kind: str, name: str, revision: str = "") -> None:
        repo = self.repo(kind, name)
        commit = repo.at(revision or "main")
        card = commit.tree.get("README.md")
        self.answer(
            200,
            {
                "_id": hashlib.sha1(name.encode()).hexdigest()[:24],
                "id": name,
                "author": name.split("/")[0],
                "sha": commit.sha,
                "private": repo.private,
                "gated": "manual" if repo.gated else False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "lastModified": "2017-06-12T17:57:34.000Z",
                "createdAt": "2017-06-12T17:57:34.000Z",
                "cardData": front_matter(self.hub.content_of(card).decode()) if card else None,
                "siblings": [{"rfilename": path} for path in sorted(commit.tree)],
            },
        )

    def refs(self, kind: str, name: str) -> None:
        repo = self.repo(kind, name)

        def listed(prefix: str) -> list[dict[str, str]]:
            return [
                {"name": ref.removeprefix(prefix), "ref": ref, "targetCommit": sha}
                for ref, sha in repo.refs.items()
                if ref.startswith(prefix)
            ]

        branches, tags = listed("refs/heads/"), listed("refs/tags/")
        pull_requests = {"pullRequests": listed("refs/pr/")} if "include_prs" in self.query else {}
        self.answer(200, {"branches": branches, "tags": tags, "converts": [], **pull_requests})

    def create_ref(self, kind: str, name: str, sort: str, label: str) -> None:
        repo = self.repo(kind, name)
        self.may_write(name)
        asked = self.json()
        if sort == "tag":
            ref, start = f"refs/tags/{asked['tag']}", label
        else:
            ref, start = f"refs/heads/{label}", asked.get("startingPoint") or "main"
        if ref in repo.refs:
            raise HubRefusal(409, f"Reference already exists: {ref}")
        repo.refs[ref] = repo.at(start).sha
        self.answer(200, {})

    def history(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name)
        listed, sha = [], repo.at(revision).sha
        while sha is not None:
            commit = repo.commits[sha]
            date = "2017-06-12T17:57:34.000Z"
            author = {"user": commit.author}
            listed.append({"id": sha, "title": commit.title, "message": "", "date": date, "authors": [author]})
            sha = commit.parent
        self.answer(200, listed)

    def entry(self, path: str, file: File) -> dict[str, Any]:
        found: dict[str, Any] = {"type": "file", "path": path, "oid": file.oid, "size": file.size}
        if file.sha256:
            found["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 130}
            xet = self.hub.xet_hash(file.sha256) if self.hub.xet_store else None
            if xet:
                found["xetHash"] = xet[0]
        return found

    def tree(self, kind: str, name: str, revision: str, path: str = "") -> None:
        commit = self.repo(kind, name).at(revision)
        prefix = f"{path.strip('/')}/" if path.strip("/") else ""
        inside = {whole.removeprefix(prefix): whole for whole in commit.tree if whole.startswith(prefix)}
        if prefix and not inside:
            raise HubRefusal(404, f"{path} does not exist on {revision!r}", "EntryNotFound", commit.sha)
        recursive = self.query.get("recursive", ["false"])[0].lower() == "true"
        entries = {}
        for rest, whole in sorted(inside.items()):
            *folders, _ = rest.split("/")
            for depth in range(1, len(folders) + 1 if recursive else min(len(folders), 1) + 1):
                folder = prefix + "/".join(folders[:depth])
                entries[folder] = {"type": "directory", "path": folder, "oid": git_hash(folder.encode()), "size": 0}
            if recursive or not folders:
                entries[whole] = self.entry(whole, commit.tree[whole])
        self.answer(200, list(entries.values()))

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        commit = self.repo(kind, name).at(revision)
        is_json = "json" in self.headers.get("Content-Type", "")
        wanted = self.json()["paths"] if is_json else parse_qs(self.body.decode()).get("paths", [])
        found = [self.entry(path, commit.tree[path]) for path in wanted if path in commit.tree]
        for path in wanted:
            if any(other.startswith(f"{path.rstrip('/')}/") for other in commit.tree):
                found.append({"type": "directory", "path": path.rstrip("/"), "oid": git_hash(path.encode()), "size": 0})
        self.answer(200, found)

    def preupload(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name)
        self.may_write(name, by_pull_request="create_pr" in self.query or revision.startswith("refs/pr/"))
        tree = repo.at(revision).tree
        files = []
        for asked in self.json()["files"]:
            sample = base64.b64decode(asked["sample"])
            is_large = asked["size"] > LARGE_FILE_BYTES or asked["path"].endswith(LARGE_FILE_ENDINGS) or b"\0" in sample
            known = tree.get(asked["path"])
            oid = (known.sha256 or known.oid) if known else None
            mode = "lfs" if is_large else "regular"
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": files})

    def lfs_batch(self, name: str, kind: str = "") -> None:
        self.repo(kind or "models", name)
        self.may_write(name, by_pull_request=True)
        objects = []
        for asked in self.json()["objects"]:
            found = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.large:
                upload = {"href": f"{self.hub.url}/lfs/{asked['oid']}"}
                verify = {"href": f"{self.hub.url}/{name}.git/info/lfs/verify"}
                found["actions"] = {"upload": upload, "verify": verify}
            objects.append(found)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def lfs_put(self, sha256: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise HubRefusal(400, "The content does not have the hash that was announced.")
        self.hub.large[sha256] = self.body
        self.answer(200)

    def lfs_verify(self, name: str) -> None:
        asked = self.json()
        if len(self.hub.large.get(asked["oid"], b"")) != asked["size"]:
            raise HubRefusal(404, "The LFS object is not there.")
        self.answer(200, {})

    def commit(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name)
        opens_pull_request = "create_pr" in self.query
        user = self.may_write(name, by_pull_request=opens_pull_request or revision.startswith("refs/pr/"))
        parent = repo.at(revision)
        items = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        (header,) = (item["value"] for item in items if item["key"] == "header")
        if header.get("parentCommit", parent.sha) != parent.sha:
            raise HubRefusal(412, "A commit has happened since. Please refresh and try again.")
        tree = dict(parent.tree)
        for item in items:
            value = item["value"]
            if item["key"] == "file":
                tree[value["path"]] = self.hub.stored(base64.b64decode(value["content"]))
            elif item["key"] == "lfsFile":
                tree[value["path"]] = self.hub.stored_large(value["oid"])
            elif item["key"] == "deletedFile":
                if tree.pop(value["path"], None) is None:
                    raise HubRefusal(404, "A file with this name doesn't exist", "EntryNotFound")
            elif item["key"] == "deletedFolder":
                tree = {path: file for path, file in tree.items() if not path.startswith(value["path"])}
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if opens_pull_request:
            number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
            ref, more = f"refs/pr/{number}", {"pullRequestUrl": f"{url}/discussions/{number}"}
        else:
            found = repo.ref_of(revision)
            if found is None:
                raise HubRefusal(400, "One commits to a branch, not to a commit.")
            ref, more = found, {}
        sha = repo.commit(ref, tree, header["summary"], user, parent.sha)
        self.answer(200, {"success": True, "commitOid": sha, "commitUrl": f"{url}/commit/{sha}", **more})

    def resolve(self, name: str, revision: str, path: str, kind: str = "") -> None:
        commit = self.repo(kind or "models", name).at(revision)
        file = commit.tree.get(path)
        if file is None:
            raise HubRefusal(404, "Entry not found", "EntryNotFound", commit.sha)
        headers: dict[str, str | None] = {"X-Repo-Commit": commit.sha, "Accept-Ranges": "bytes"}
        if file.sha256 is None:
            self.send_content(self.hub.contents[file.oid], {**headers, "ETag": f'"{file.oid}"'})
            return
        headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        xet = self.hub.xet_hash(file.sha256) if self.hub.xet_store else None
        if xet:
            route = f"{self.hub.url}/api/{kind or 'models'}/{name}/xet-read-token/{commit.sha}"
            headers |= {"X-Xet-Hash": xet[0], "X-Xet-Refresh-Route": route}
        self.answer(302, b"", {**headers, "Location": f"{self.hub.cdn_url}/cdn/{file.sha256}"})

    def cdn(self, sha256: str) -> None:
        if sha256 not in self.hub.large:
            raise HubRefusal(404, "Not Found")
        self.send_content(self.hub.large[sha256], {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})

    def send_content(self, content: bytes, headers: dict[str, str | None]) -> None:
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if not asked or asked[0] == "bytes=-":
            self.answer(200, content, headers)
            return
        if asked[1]:
            start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        else:
            start, end = max(0, len(content) - int(asked[2])), len(content) - 1
        if start >= len(content):
            self.answer(416, b"", {**headers, "Content-Range": f"bytes */{len(content)}"})
            return
        headers = {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"}
        self.answer(206, content[start : end + 1], headers)

    def xet_token(self, kind: str, name: str, access: str, revision: str = "") -> None:
        self.repo(kind, name)
        if access == "write":
            self.may_write(name, by_pull_request=True)
        if self.hub.xet_store is None:
            raise HubRefusal(404, "This Hub has no Xet storage.")
        store, end = f"local://{self.hub.xet_store}", int(time.time()) + 3600
        headers: dict[str, str | None] = {
            "X-Xet-Cas-Url": store,
            "X-Xet-Access-Token": "token",
            "X-Xet-Token-Expiration": str(end),
        }
        self.answer(200, {"casUrl": store, "accessToken": "token", "exp": end}, headers)


def front_matter(card: str) -> dict[str, Any]:
    found = re.match(r"---\r?\n(.*?)\r?\n---\s*(\n|$)", card, re.DOTALL)
    return (yaml.safe_load(found[1]) or {}) if found else {}


def card_errors(card: str, repo_type: str) -> list[str]:
    """Return what a card's front matter has against the Hub's rules for the fields that Chatformer writes."""
    try:
        data = front_matter(card)
    except yaml.YAMLError as error:
        return [f"The front matter is not YAML: {error}"]
    errors = []

    def check(holds: Any, message: str) -> None:
        if not holds:
            errors.append(message)

    if "license" in data:
        check(data["license"] in LICENSES, f'"license" must be one of the known, not {data["license"]!r}')
    languages = data.get("language", [])
    for language in languages if isinstance(languages, list) else [languages]:
        check(isinstance(language, str) and re.fullmatch(r"[a-z]{2,3}", language), f'"language": {language!r}')
    for name in ("tags", "datasets", "metrics", "models"):
        listed = data.get(name, [])
        check(isinstance(listed, list) and all(isinstance(item, str) for item in listed), f'"{name}" must be texts')
    for dataset in data.get("datasets", []):
        check(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", dataset), f'"datasets": {dataset!r} is no id')
    for model in data.get("model-index") or []:
        check(model.get("name"), '"model-index[0].name" is required')
        for result in model.get("results") or []:
            check((result.get("task") or {}).get("type"), '"model-index[0].results[0].task.type" is required')
            dataset = result.get("dataset") or {}
            check(
                dataset.get("name") and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", dataset.get("type") or ""),
                '"model-index[0].results[0].dataset" needs type and name',
            )
            check(result.get("metrics"), '"model-index[0].results[0].metrics" is required')
            for metric in result.get("metrics") or []:
                is_number = isinstance(metric.get("value"), (int, float))
                check(metric.get("type") and is_number, f"metric {metric!r} needs a type and a value")
    if repo_type == "space":
        check(data.get("sdk") in ("gradio", "docker", "static"), '"sdk" must be one of gradio, docker, static')
        for name in ("colorFrom", "colorTo"):
            check(data.get(name, "red") in SPACE_COLORS, f'"{name}" must be one of {sorted(SPACE_COLORS)}')
        check(len(data.get("short_description", "")) <= 60, '"short_description" has at most 60 characters')
    return errors


NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<kind>{'|'.join(KINDS)})/{NAME}"
REVISION = r"(?P<revision>[^/]+)"
PAGES = rf"/(?:(?P<kind>datasets|spaces)/)?{NAME}"

ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("GET", "/api/whoami-v2", HubRequestHandler.whoami),
    ("POST", "/api/repos/create", HubRequestHandler.create_repo),
    ("POST", "/api/validate-yaml", HubRequestHandler.validate_yaml),
    ("GET", API, HubRequestHandler.info),
    ("GET", rf"{API}/revision/{REVISION}", HubRequestHandler.info),
    ("GET", f"{API}/auth-check/write", HubRequestHandler.check_write_access),
    ("GET", f"{API}/refs", HubRequestHandler.refs),
    ("POST", rf"{API}/(?P<sort>branch|tag)/(?P<label>[^/]+)", HubRequestHandler.create_ref),
    ("GET", rf"{API}/commits/{REVISION}", HubRequestHandler.history),
    ("GET", rf"{API}/tree/{REVISION}(?P<path>/.*)?", HubRequestHandler.tree),
    ("POST", rf"{API}/paths-info/{REVISION}", HubRequestHandler.paths_info),
    ("POST", rf"{API}/preupload/{REVISION}", HubRequestHandler.preupload),
    ("POST", rf"{API}/commit/{REVISION}", HubRequestHandler.commit),
    ("GET", rf"{API}/xet-(?P<access>read|write)-token/{REVISION}", HubRequestHandler.xet_token),
    ("POST", rf"{PAGES}\.git/info/lfs/objects/batch", HubRequestHandler.lfs_batch),
    ("POST", rf"/{NAME}\.git/info/lfs/verify", HubRequestHandler.lfs_verify),
    ("PUT", "/lfs/(?P<sha256>[0-9a-f]{64})", HubRequestHandler.lfs_put),
    ("GET", rf"{PAGES}/resolve/{REVISION}/(?P<path>.+)", HubRequestHandler.resolve),
    ("GET", "/cdn/(?P<sha256>[0-9a-f]{64})", HubRequestHandler.cdn),
]
