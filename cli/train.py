"""`chatformer train`."""

import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> int:
    from chatformer.hub.errors import HubError
    from chatformer.training.settings import SettingsError, check_settings, parse_settings

    program = "chatformer train"
    publisher = None
    try:
        # Check the flags before spending seconds on importing torch.
        settings = parse_settings(arguments, program=program)
        check_settings(settings)
        run = settings.run
        if run.push_to_hub and not (run.dry_run or run.verify_resume):
            from chatformer.hub.publisher import Publisher

            assert run.output_dir is not None
            repo = run.hub_model_id or Path(run.output_dir).absolute().name
            publisher = Publisher(repo, private=run.hub_private_repo, samples=run.hub_samples)
    except (SettingsError, HubError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from chatformer.training.train import main as train

    status = train(arguments, program, publisher)
    if status == 0 and publisher is not None and publisher.problem is not None:
        print(
            f"error: The model in {run.output_dir} is complete, but not on the Hub: {publisher.problem} Later, "
            f"`chatformer push {run.output_dir} --repo {publisher.repo}` publishes it.",
            file=sys.stderr,
        )
        return 2
    return status
