"""`chatformer train`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chatformer.training.settings import RunSettings


def main(arguments: Sequence[str]) -> int:
    from chatformer.training.settings import SettingsError, check_settings, parse_settings

    program = "chatformer train"
    publisher = None
    try:
        # Flags are checked before the seconds that loading torch takes.
        settings = parse_settings(arguments, program=program)
        check_settings(settings)
        run = settings.run
        if run.push_to_hub and not (run.dry_run or run.verify_resume):
            publisher = Publisher(run)
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from chatformer.training.train import main as train

    status = train(arguments, program, publisher)
    if status == 0 and publisher is not None and publisher.problem is not None:
        print(
            f"error: The model in {run.output_dir} is whole, but not on the Hub: {publisher.problem} Later, "
            f"`chatformer push {run.output_dir} --repo {publisher.repo}` publishes it.",
            file=sys.stderr,
        )
        return 2
    return status


class Publisher:
    """Pushes a run's folder to the Hub; what goes wrong there does not stop the run."""

    def __init__(self, run: "RunSettings"):
        """Make sure of the repository; raise a `SettingsError` where it could not be pushed to."""
        from chatformer.hub.errors import HubError
        from chatformer.hub.repositories import Repository, check_name
        from chatformer.training.settings import SettingsError

        assert run.output_dir is not None
        self.repo = run.hub_model_id or Path(run.output_dir).absolute().name
        self.private = run.hub_private_repo
        self.samples = run.hub_samples
        self.problem: str | None = None
        """Why the last push failed."""
        try:
            check_name(self.repo, flag="--hub-model-id")
            repository = Repository(self.repo)
            repository.prepare(private=self.private, revision="main")
            repository.check_may_write()
        except HubError as error:
            raise SettingsError(f"--push-to-hub: {error}") from error

    def __call__(self, folder: Path) -> None:
        from chatformer.hub.errors import HubError
        from chatformer.hub.pushing import push
        from chatformer.hub.settings import PushSettings

        self.problem = None
        try:
            settings = PushSettings(model=str(folder), repo=self.repo, private=self.private, samples=self.samples)
            url = push(settings)
        except HubError as error:
            self.problem = str(error)
            print(f"\nNot pushed: {error}", file=sys.stderr)
        else:
            print(f"\nPushed: {url}", file=sys.stderr)
