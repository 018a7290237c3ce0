"""`chatformer plot`: from settings to a picture in a file."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from chatformer.configuration.declaring import SettingsError
from chatformer.configuration.pictures import PlotSettings, check_plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot(settings: PlotSettings) -> None:
    """Draw the picture that the settings name."""
    check_plot(settings)
    # Before seconds are spent on a model.
    from chatformer.evaluation.plots.drawing import check_format, save
    from chatformer.storage.keeping import check_kept, model_files
    from chatformer.storage.writing import check_output_file

    check_format(settings.output_file)
    check_output_file(settings.output_file)
    if settings.model is not None:
        model = {f"the model in {settings.model}": model_files(settings.model, command="plot")}
        check_kept([settings.output_file], model, flag="--output-file")
    if settings.picture == "curves":
        figure = curves_of_run(settings)
    elif settings.picture == "schedule":
        figure = schedule_of_run(settings)
    elif settings.picture == "positions":
        figure = positions_of_model(settings)
    else:
        from chatformer.evaluation.plots.of_a_text import picture_of_text

        figure = picture_of_text(settings)
    save(figure, settings.output_file)
    print(f"Written: {settings.output_file}", file=sys.stderr)


def curves_of_run(settings: PlotSettings) -> "Figure":
    from chatformer.evaluation.plots import curves
    from chatformer.storage.names import LOG_FILE
    from chatformer.storage.run_folder import Records

    log = Records.read(Path(str(settings.model))).log
    if not any("loss" in line for line in log):
        raise SettingsError(f"{settings.model} has no {LOG_FILE} with the steps of a training, so there are no curves.")
    return curves(log)


def schedule_of_run(settings: PlotSettings) -> "Figure":
    """The rates of a run's settings, or of the paper's base model."""
    from chatformer.configuration import sized_config
    from chatformer.configuration.training import TrainingSettings, decided
    from chatformer.evaluation.plots import schedule
    from chatformer.storage.model_folder import ModelFolder
    from chatformer.storage.names import RECORD_FILE, SETTINGS_FILE
    from chatformer.storage.run_folder import Records
    from chatformer.training.schedules import learning_rates

    if settings.model is None:
        d_model = sized_config("base").d_model
        rates = learning_rates("noam", learning_rate=1.0, d_model=d_model, warmup_steps=4000, num_steps=20_000)
        return schedule(rates, title=f"Equation 3 with d_model = {d_model}", warmup_steps=4000)
    records = Records.read(Path(settings.model))
    if not records.settings or "steps" not in records.record.get("overview", {}):
        raise SettingsError(
            f"{settings.model} has no {SETTINGS_FILE} and {RECORD_FILE} of a training, so its schedule is unknown."
        )
    run = TrainingSettings().changed(records.settings, where=SETTINGS_FILE).optimization
    rates = learning_rates(
        run.lr_scheduler_type,
        learning_rate=decided(run.learning_rate),
        num_steps=int(records.record["overview"]["steps"]),
        warmup_steps=decided(run.warmup_steps),
        d_model=ModelFolder.find(settings.model).config().d_model,
    )
    title = f"Learning rate of {Path(settings.model).absolute().name} ({run.lr_scheduler_type})"
    return schedule(rates, title=title, warmup_steps=decided(run.warmup_steps))


def positions_of_model(settings: PlotSettings) -> "Figure":
    from chatformer.configuration import sized_config
    from chatformer.embedding import sinusoids
    from chatformer.evaluation.plots import positions
    from chatformer.storage.model_folder import ModelFolder

    if settings.model is None:
        config = sized_config("base")
    else:
        config = ModelFolder.find(settings.model, settings.revision).config()
        if config.model_type == "bahdanau":
            raise SettingsError(f"{settings.model} is a recurrent model, which has no positions to draw.")
    return positions(sinusoids(settings.num_positions, config.d_model).numpy())
