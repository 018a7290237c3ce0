"""
Train a model: `accelerate launch -m chatformer.training`, or `accelerate launch training` in a checkout.

Run as a folder, this file is no part of a package: it starts the training of the chatformer that is installed from
this checkout.
"""

import importlib.util
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def installed_folder() -> Path | None:
    """The folder of the installed `chatformer.training`, or None."""
    if importlib.util.find_spec("chatformer") is None:
        return None
    spec = importlib.util.find_spec("chatformer.training")
    return None if spec is None or spec.origin is None else Path(spec.origin).resolve().parent


def main() -> int:
    """Train with the settings of the command line; return the exit status."""
    # Python puts a folder that it runs first on the path, where its files would hide modules of the same names.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != FOLDER]
    folder = installed_folder()
    if folder != FOLDER:
        problem = "is not installed" if folder is None else f"is installed from {folder.parent}, not from this checkout"
        print(f"error: chatformer {problem}: install it with `pip install -e {FOLDER.parent}`.", file=sys.stderr)
        return 2
    from chatformer.storage.printing import print_in_any_encoding
    from chatformer.training.train import main as train

    print_in_any_encoding()
    return train(program="python -m chatformer.training")


if __name__ == "__main__":
    sys.exit(main())
