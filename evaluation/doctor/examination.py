"""`chatformer doctor`: what is wrong with data or a model, and what to do, in the terminal and in a file."""

from chatformer.configuration.evaluation import DoctorSettings
from chatformer.storage.printing import warn

from .subject import check, is_model, without_effect


def examine(settings: DoctorSettings) -> int:
    """Examine data or a model; return the exit status, 1 if there is a problem."""
    check(settings)
    warn(*without_effect(settings))
    # With correct settings only: these take seconds to import, and what looks at models takes more.
    from .report import check_inputs_are_kept, show, write

    check_inputs_are_kept(settings)
    if is_model(settings):
        from .model_diagnosis import diagnosis_of_model

        diagnosis = diagnosis_of_model(settings)
    else:
        from .diagnosis import diagnosis_of_data

        diagnosis = diagnosis_of_data(settings)
    show(diagnosis)
    if settings.output_dir is not None:
        write(diagnosis, settings)
    return 1 if diagnosis.severities()["problem"] else 0
