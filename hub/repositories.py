"""A repository on the Hub, one commit to it, and its errors for people."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete, HfApi, RepoFile, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash

from chatformer.storage.explaining import chain_of, first_line, refusal_by

from .bundle import Bundle
from .errors import HubError

PULL_REQUEST = "refs/pr/"


class Repository:
    """A repository that the logged-in user pushes to."""

    def __init__(self, name: str, *, kind: str = "model"):
        """Find the owner of the repository `name`; raise a `HubError` if the user is not logged in."""
        check_name(name)
        self.api = HfApi()
        self.kind = kind
        self.user = self.role = None
        with self._explained(name):
            account = self.api.whoami()
        self.user = account["name"]
        self.role = account.get("auth", {}).get("accessToken", {}).get("role")
        self.id = name if "/" in name else f"{self.user}/{name}"

    @property
    def url(self) -> str:
        return self.page_of(self.id)

    def page_of(self, name: str) -> str:
        """The address of a repository of this kind."""
        return f"{self.api.endpoint}/{'' if self.kind == 'model' else f'{self.kind}s/'}{name}"

    def prepare(self, *, private: bool, revision: str, **creation: Any) -> None:
        """Create repository and branch if they do not exist; raise a `HubError` if that is not possible."""
        with self._explained(self.id):
            try:
                repository: Any = self.api.repo_info(self.id, repo_type=self.kind)
            except GatedRepoError:
                # It exists, although this error is a kind of RepositoryNotFoundError.
                raise
            except RepositoryNotFoundError:
                if self.role == "read":
                    # A repository that the token may not see looks like one that does not exist.
                    raise HubError(self._read_only()) from None
                self.api.create_repo(self.id, repo_type=self.kind, private=private or None, exist_ok=True, **creation)
            else:
                if private and not repository.private:
                    raise HubError(
                        f"{self.id} exists already and is public. Make it private in its settings "
                        f"({self.url}/settings), choose another name, or leave out --hub-private-repo."
                    )
            if revision.startswith(PULL_REQUEST) or revision == constants.DEFAULT_REVISION:
                return
            try:
                self.api.repo_info(self.id, repo_type=self.kind, revision=revision)
            except RevisionNotFoundError:
                self.api.create_branch(self.id, repo_type=self.kind, branch=revision, exist_ok=True)

    def check_may_write(self) -> None:
        """Raise a `HubError` if the repository cannot be pushed to."""
        with self._explained(self.id):
            self.api.auth_check(self.id, repo_type=self.kind, write=True)

    def files(self, revision: str) -> tuple[str, dict[str, RepoFile]]:
        """The commit of a revision, and the files in it."""
        with self._explained(self.id):
            commit = str(self.api.repo_info(self.id, repo_type=self.kind, revision=revision).sha)
            entries = self.api.list_repo_tree(self.id, repo_type=self.kind, revision=commit, recursive=True)
            return commit, {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}

    def read(self, path: str, revision: str) -> bytes:
        """The content of a file."""
        with self._explained(self.id):
            return Path(self.api.hf_hub_download(self.id, path, repo_type=self.kind, revision=revision)).read_bytes()

    def commit(
        self,
        bundle: Bundle,
        *,
        deletions: Sequence[str] = (),
        parent: str,
        revision: str,
        message: str,
        create_pr: bool,
    ) -> CommitInfo:
        """
        Make one commit of all files; it fails unless `parent` is still the last commit.

        Large files are uploaded first, unless the Hub has them already.
        """
        operations: list[CommitOperationDelete | CommitOperationAdd] = [
            *(CommitOperationDelete(path) for path in deletions),
            *(CommitOperationAdd(path, content) for path, content in bundle.items()),
        ]
        with self._explained(self.id):
            return self.api.create_commit(
                self.id,
                operations,
                repo_type=self.kind,
                revision=revision,
                commit_message=message,
                parent_commit=parent,
                create_pr=create_pr,
            )

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        """Turn errors of the Hub and of the network into a `HubError` that says what to do."""
        try:
            yield
        except HubError:
            raise
        # huggingface_hub passes on errors of its HTTP client, which differs between versions, and of its Xet client;
        # each of them means that the upload is incomplete.
        except Exception as error:
            raise HubError(self._explanation(name, error)) from error

    def _explanation(self, name: str, error: BaseException) -> str:
        if isinstance(error, LocalTokenNotFoundError):
            return "You are not logged in to the Hugging Face Hub: log in with `hf auth login`, or set HF_TOKEN."
        causes = list(chain_of(error))
        if any(isinstance(cause, OfflineModeIsEnabled) for cause in causes):
            return "The Hugging Face Hub is switched off by HF_HUB_OFFLINE; unset it to push."
        answer = next((cause for cause in causes if isinstance(cause, HfHubHTTPError)), None)
        status = None if answer is None or answer.response is None else answer.response.status_code
        if (refusal := refusal_by(error, self.page_of(name))) is not None:
            return refusal
        if status == 401:
            return (
                "The Hugging Face Hub does not know your token, which may be mistyped, expired or revoked: log in "
                "again with `hf auth login --force`, or set another HF_TOKEN."
            )
        if status == 403 and self.role == "read":
            return self._read_only()
        if status == 403:
            owner, _, title = name.rpartition("/")
            if owner in ("", self.user):
                return (
                    f"Your token may not write to {name}: {said_by(answer)} Give it that right at "
                    f"{self.api.endpoint}/settings/tokens."
                )
            return (
                f"{name} belongs to {owner}, where {self.user} may not write. Choose a name of your own, such as "
                f"{self.user}/{title}, or propose the change with --create-pr where the repository exists."
            )
        if status == 412:
            return f"Somebody else has pushed to {name} in the meantime. Look at it, and push again."
        if status is not None:
            return f"The Hub refused a step of the push to {name} with {status}: {said_by(answer)} {UNTOUCHED}"
        if any(type(cause).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore") for cause in causes):
            return (
                f"The Hugging Face Hub ({self.api.endpoint}) cannot be reached: {first_line(causes[-1])}. Check the "
                f"network. {UNTOUCHED}"
            )
        return f"The push to {name} failed: {first_line(error).rstrip('.')}. {UNTOUCHED}"

    def _read_only(self) -> str:
        return (
            f"{self.user}'s token can only read. Make one with the role write at {self.api.endpoint}/settings/tokens, "
            "and log in with it: `hf auth login --force`."
        )


UNTOUCHED = "Nothing half pushed shows; push again, and only what is missing is sent."


def check_name(name: str, *, flag: str = "--hub-model-id") -> None:
    """Raise a `HubError` if a repository cannot have this name."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise HubError(
            f"{flag} {name} must be a name such as my-bot or my-name/my-bot, of letters, digits, '-', '_' and '.': "
            f"{first_line(error)}"
        ) from error


def said_by(error: Any) -> str:
    """An error in the Hub's own words, as a sentence."""
    words = (getattr(error, "server_message", None) or first_line(error)).strip().splitlines()[0]
    return words if words.endswith(".") else f"{words}."


def changed(bundle: Bundle, remote: dict[str, RepoFile]) -> Bundle:
    """The files that a repository lacks, or has with other content."""
    return {path: content for path, content in bundle.items() if not is_same(content, remote.get(path))}


def is_same(content: Path | bytes, remote: RepoFile | None) -> bool:
    """True if a file equals one in a repository, by its hash."""
    if remote is None:
        return False
    data = content if isinstance(content, bytes) else None
    if remote.lfs is None:
        return git_hash(content.read_bytes() if isinstance(content, Path) else content) == remote.blob_id
    if data is not None:
        return hashlib.sha256(data).hexdigest() == remote.lfs.sha256
    with content.open("rb") as file:  # type: ignore[union-attr]
        return hashlib.file_digest(file, "sha256").hexdigest() == remote.lfs.sha256


def is_equal_at(repository: Repository, commit: str, bundle: Bundle) -> bool:
    """True if a repository had all of these files, with the same content, at a commit."""
    try:
        return not changed(bundle, repository.files(commit)[1])
    except HubError:
        # The history was rewritten, and the commit no longer exists.
        return False


def outdated(bundle: Bundle, remote: dict[str, RepoFile], patterns: Sequence[str]) -> list[str]:
    """The files of a repository that match the patterns and are no longer in the bundle."""
    return sorted(
        path for path in remote if path not in bundle and any(fnmatchcase(path, pattern) for pattern in patterns)
    )
