"""
`chatformer evaluate`: the figures of a model beside free baselines, in the terminal and in a file.

    accelerate launch -m chatformer.cli.evaluate runs/korean
"""

import sys
from collections.abc import Sequence

import tyro

from chatformer.storage.printing import print_in_any_encoding
from chatformer.training.settings import EvaluationSettings


def main(arguments: Sequence[str], program: str = "chatformer evaluate") -> int:
    """Evaluate as a command line says; return the exit status."""
    settings = tyro.cli(EvaluationSettings, args=list(arguments), prog=program)
    # After the flags are known to be right: these take seconds to import.
    import torch
    import transformers
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    from chatformer.chat.errors import ModelNotFound
    from chatformer.evaluation.evaluating import evaluate

    transformers.utils.logging.disable_progress_bar()
    # Unless it is told so, it joins processes that have GPUs alone.
    on_cpu = settings.device == "cpu" or parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    state = PartialState(cpu=on_cpu)
    try:
        evaluate(settings)
    except (ModelNotFound, OSError, ValueError) as error:
        message = str(error)
        if state.is_main_process:
            # Behind its first line transformers gives advice that is not about this command.
            print(f"error: {message.splitlines()[0] if isinstance(error, ModelNotFound) else message}", file=sys.stderr)
        return 2
    finally:
        state.destroy_process_group()
    return 0


if __name__ == "__main__":
    print_in_any_encoding()
    sys.exit(main(sys.argv[1:], "python -m chatformer.cli.evaluate"))
