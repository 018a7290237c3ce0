"""`chatformer doctor`: what is wrong with data or a model, and what to do, in the terminal and in a file."""

import sys
from collections.abc import Sequence

import tyro

from chatformer.evaluation.doctor.subject import check, is_model
from chatformer.storage.printing import print_in_any_encoding
from chatformer.training.settings import DoctorSettings


def main(arguments: Sequence[str], program: str = "chatformer doctor") -> int:
    """Look at what a command line names; return 1 where a problem was found, 2 where nothing could be looked at."""
    settings = tyro.cli(DoctorSettings, args=list(arguments), prog=program)
    try:
        check(settings)
        # After the settings are known to be right: these take seconds to import, and what looks at models takes more.
        from chatformer.evaluation.doctor.report import show, write

        if is_model(settings):
            from chatformer.evaluation.doctor.model_diagnosis import diagnosis_of_model

            diagnosis = diagnosis_of_model(settings)
        else:
            from chatformer.evaluation.doctor.diagnosis import diagnosis_of_data

            diagnosis = diagnosis_of_data(settings)
        show(diagnosis)
        if settings.output_dir is not None:
            write(diagnosis, settings)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 1 if diagnosis.severities()["problem"] else 0


if __name__ == "__main__":
    print_in_any_encoding()
    sys.exit(main(sys.argv[1:], "python -m chatformer.cli.doctor"))
