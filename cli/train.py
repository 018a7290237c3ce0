"""`chatformer train`: check what is asked, make sure that a model can be published, train, publish."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from chatformer.configuration.training import TrainingSettings, check_settings

if TYPE_CHECKING:
    from chatformer.hub.publisher import Publisher


def train(settings: TrainingSettings) -> int:
    """Train, and publish if the settings say so; return the exit status."""
    # Before the seconds that it takes to import torch, and before anything is trained that could not be published.
    check_settings(settings)
    publisher = publisher_of(settings)
    if sys.stderr is not None and sys.stderr.isatty():
        # After an installation it may take a minute until there is something to tell.
        print(f"Loading torch, then reading {', '.join(settings.data.data)} ...", file=sys.stderr)
    from chatformer.training.train import run_command

    status = run_command(settings, publisher)
    if status == 0 and publisher is not None and publisher.problem is not None:
        folder = settings.run.output_dir
        print(
            f"error: The model in {folder} is complete, but not on the Hub: {publisher.problem} Later, "
            f"`chatformer push {folder} --hub-model-id {publisher.repo}` publishes it.",
            file=sys.stderr,
        )
        return 2
    return status


def publisher_of(settings: TrainingSettings) -> "Publisher | None":
    """What publishes the run's folder, or None if it stays here; raise a `HubError` if it cannot be published."""
    run = settings.run
    if not run.push_to_hub or run.dry_run or run.verify_resume:
        return None
    from chatformer.hub.publisher import Publisher

    assert run.output_dir is not None
    repo = run.hub_model_id or Path(run.output_dir).absolute().name
    return Publisher(repo, private=run.hub_private_repo, samples=run.hub_samples)
