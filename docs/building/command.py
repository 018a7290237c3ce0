"""
`chatformer`, as the pages run it: it also writes the data behind each picture, in a file next to it.

A training that is finished is not repeated, and a doctor who has found a problem, which is status 1, has not failed.
"""

import json
import sys
from pathlib import Path

from pictures import Facts, recorded


def note(picture: Path, facts: Facts) -> None:
    picture.with_suffix(".facts.json").write_text(json.dumps(facts, ensure_ascii=False), "utf-8")


def is_finished_training(verb: str, *flags: str) -> bool:
    if verb != "train" or "--output-dir" not in flags:
        return False
    from chatformer.storage.run_folder import is_finished

    return is_finished(Path(flags[flags.index("--output-dir") + 1]))


if __name__ == "__main__":
    from chatformer.cli.main import main

    if is_finished_training(*sys.argv[1:]):
        sys.exit()
    sys.argv[0] = "chatformer"
    with recorded(note):
        status = main()
    sys.exit(0 if status == 1 and sys.argv[1] == "doctor" else status)
