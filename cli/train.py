"""`chatformer train`."""

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    from chatformer.training.settings import SettingsError, check_settings, parse_settings

    program = "chatformer train"
    try:
        # Flags are checked before the seconds that loading torch takes.
        check_settings(parse_settings(arguments, program=program))
    except SettingsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from chatformer.training.train import main as train

    return train(arguments, program)
