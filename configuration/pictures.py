"""The settings of `chatformer plot`, each a flag."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from .declaring import AtLeast, AtMost, OfHub, SettingsError, flag

OF_A_REPLY = ("text", "device", "max_new_tokens", "revision")
USED_BY: dict[str, tuple[str, ...]] = {
    "attention": (*OF_A_REPLY, "attention", "layer", "head", "special_tokens"),
    "tokens": ("text", "revision", "device"),
    "steps": (*OF_A_REPLY, "num_likeliest"),
    "beams": (*OF_A_REPLY, "num_beams"),
    "mask": ("text", "revision", "device"),
    "positions": ("num_positions", "revision"),
    "schedule": (),
    "curves": (),
}
"""By picture, the settings that it depends on."""
WITHOUT_A_MODEL = ("positions", "schedule")
"""Pictures that need no model; without one they show the paper's base model."""


@dataclass(frozen=True, kw_only=True)
class PlotSettings:
    """Draw a reply from the inside, a run's curves, or what the paper describes, as a picture."""

    picture: Annotated[
        Literal["attention", "tokens", "steps", "beams", "mask", "positions", "schedule", "curves"],
        tyro.conf.Positional,
    ]
    """attention: who looks at whom; tokens: how a text is cut; steps: the likeliest next tokens; beams: the tree of a
    search; mask: what is hidden; positions: the positional encodings; schedule: the learning rate; curves: a
    training's figures."""
    model: Annotated[str | None, tyro.conf.Positional] = None
    """Folder of a trained model, or a model's id on the Hub; positions and schedule are the paper's base model's
    without it."""
    output_file: Path
    """The picture to write; its name ends with the format, such as .png, .svg or .pdf."""
    text: str = "Hello!"
    """What is said to the model."""
    attention: Literal["cross", "encoder", "decoder"] = "cross"
    """Which of the three attentions: from the reply to the source, within the source, or within the reply."""
    layer: Annotated[int, AtLeast(1)] | None = None
    """Which layer, counted from 1; the last unless given."""
    head: Annotated[int, AtLeast(1)] | None = None
    """Which head, counted from 1; all unless given."""
    special_tokens: bool = True
    """Show the tokens of the chat template too, such as the one that ends a message."""
    num_likeliest: Annotated[int, AtLeast(1), AtMost(50)] = 10
    """Tokens at each step."""
    num_beams: Annotated[int, AtLeast(2), AtMost(16)] = 4
    """Beams of the search."""
    max_new_tokens: Annotated[int, AtLeast(1)] | None = None
    """Longest reply in tokens; the model's own limit unless given."""
    num_positions: Annotated[int, AtLeast(2), AtMost(2000)] = 100
    """Rows of the table of positions."""
    revision: Annotated[str | None, OfHub("model")] = None
    """Commit, tag or branch of a model on the Hub."""
    device: str | None = None
    """Where to run, such as cpu or cuda; a GPU if there is one unless given."""


def check_plot(settings: PlotSettings) -> None:
    """Raise a `SettingsError` if the picture lacks a model, or does not depend on a setting that was given."""
    if settings.model is None and settings.picture not in WITHOUT_A_MODEL:
        raise SettingsError(
            f"There is nothing to draw: `chatformer plot {settings.picture} DIR` needs the folder of a model, or its "
            "id on the Hub."
        )
    for name, default in plot_defaults().items():
        if getattr(settings, name) != default and name not in USED_BY[settings.picture]:
            raise SettingsError(f"The picture {settings.picture} does not depend on {flag(name)}. Leave it out.")


def plot_defaults() -> dict[str, Any]:
    """The default of each setting that only some pictures depend on."""
    names = {name for names in USED_BY.values() for name in names}
    return {name: PlotSettings.__dataclass_fields__[name].default for name in sorted(names)}
