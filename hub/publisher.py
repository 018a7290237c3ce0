"""Pushes of a run's folder, during the run and at its end."""

import sys
from pathlib import Path

from chatformer.configuration.sharing import PushSettings

from .errors import HubError
from .pushing import push
from .repositories import Repository, check_name


class Publisher:
    """Pushes a run's folder whenever it is called; a push that fails does not stop the run."""

    def __init__(self, repo: str, *, private: bool, samples: bool):
        """Make sure that the repository can be pushed to; raise a `HubError` if it cannot."""
        self.repo, self.private, self.samples = repo, private, samples
        self.problem: str | None = None
        """Why the last push failed."""
        try:
            check_name(repo)
            repository = Repository(repo)
            repository.prepare(private=private, revision="main")
            repository.check_may_write()
        except HubError as error:
            raise HubError(f"--push-to-hub: {error}") from error

    def __call__(self, folder: Path) -> None:
        self.problem = None
        try:
            url = push(
                PushSettings(
                    model=str(folder),
                    hub_model_id=self.repo,
                    hub_private_repo=self.private,
                    hub_samples=self.samples,
                )
            )
        except HubError as error:
            self.problem = str(error)
            print(f"\nNot pushed: {error}", file=sys.stderr)
        else:
            print(f"\nPushed: {url}", file=sys.stderr)
