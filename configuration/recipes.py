"""
Recipes, files that give some settings of a training, and the way to the settings of a run.

The defaults come first, then the recipe, then the flags.
"""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from .command_line import parsed
from .declaring import SettingsError, did_you_mean, flag
from .training import LENGTHS, TrainingSettings

SETTINGS_FILE = "training_settings.yaml"
"""The recipe in a run's output folder: the settings that the run was begun with."""


class _NoKeyTwice(yaml.SafeLoader):
    """Reads YAML, and refuses a key that is given twice, of which YAML's own rules have the last one win silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def recipe_names() -> list[str]:
    """The names of the recipes that come with the package."""
    folder = resources.files("chatformer.configuration").joinpath("recipes")
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def read_recipe(recipe: str, *, based_on_it: tuple[str, ...] = ()) -> TrainingSettings:
    """
    The settings of a recipe, by name or by path of a YAML file.

    A recipe may name another one under `recipe`, a file relative to its own, and then gives only what it changes.
    `based_on_it` are the recipes that led here, none of which may be named again.
    """
    where = f"recipe {recipe}"
    if recipe in based_on_it:
        raise SettingsError(f"{where} is based on itself: {' -> '.join([*based_on_it, recipe])}.")
    text = _recipe_text(recipe)
    try:
        stated = yaml.load(text, _NoKeyTwice)
    except yaml.YAMLError as error:
        raise SettingsError(f"{where} is not valid YAML: {error}") from error
    if not isinstance(stated, dict) or not all(isinstance(name, str) for name in stated):
        raise SettingsError(f"{where} must be a list of settings such as `size: small`.")
    base_name = stated.get("recipe")
    if base_name is None:
        base = TrainingSettings()
    elif not isinstance(base_name, str):
        raise SettingsError(f"{where}: recipe must be the name or the file of another recipe, but it is {base_name!r}.")
    else:
        base = read_recipe(_base_of(recipe, base_name), based_on_it=(*based_on_it, recipe))
    if any(stated.get(name) is not None for name in LENGTHS):
        # A length takes the place of that of the recipe below.
        stated = dict.fromkeys(LENGTHS) | stated
    if Path(recipe).name == SETTINGS_FILE and stated.get("max_steps") is not None:
        # Runs of version 0.1 recorded both, and took the steps.
        stated["num_train_epochs"] = None
    return base.changed({**stated, "recipe": recipe}, where=where)


def settings_of_run(folder: Path) -> TrainingSettings:
    """
    The settings that the run in a folder was begun with.

    Files of data that it names as they were to be found from where it began are named as they are from here.
    """
    settings = read_recipe(str(folder / SETTINGS_FILE))
    began_in = _began_in(folder, settings.run.output_dir)
    if began_in is None:
        return settings

    def from_here(name: str) -> str:
        return str(began_in / name) if not Path(name).exists() and (began_in / name).exists() else name

    data = settings.data
    found = {name: list(map(from_here, getattr(data, name))) for name in ("data", "validation_data")}
    return settings.changed({**found, "data_sha256": data.data_sha256}, where=SETTINGS_FILE)


def _began_in(folder: Path, output_dir: str | None) -> Path | None:
    """The folder that a run began in, from where the run's own is now and what it was called; None if that is open."""
    called, now = Path(output_dir or ".").parts, folder.resolve().parts
    if Path(*called).is_absolute() or not called or ".." in called or now[-len(called) :] != called:
        return None
    return Path(*now[: -len(called)])


def recipe_files(recipe: str | None) -> list[Path]:
    """The files that a recipe consists of: its own, and those of the recipes that it is based on."""
    if recipe is None or not _is_file_name(recipe):
        return []
    base_name = yaml.safe_load(_recipe_text(recipe)).get("recipe")
    return [Path(recipe), *recipe_files(base_name and _base_of(recipe, base_name))]


def _base_of(recipe: str, base_name: str) -> str:
    return str(Path(recipe).parent / base_name) if _is_file_name(base_name) else base_name


def _is_file_name(recipe: str) -> bool:
    return recipe.endswith((".yaml", ".yml"))


def _recipe_text(recipe: str) -> str:
    if _is_file_name(recipe):
        path = Path(recipe)
        if not path.is_file():
            raise SettingsError(f"There is no recipe file {recipe}.")
        return path.read_text("utf-8")
    if recipe in recipe_names():
        return resources.files("chatformer.configuration").joinpath(f"recipes/{recipe}.yaml").read_text("utf-8")
    hint, names = did_you_mean(recipe, recipe_names()), ", ".join(recipe_names())
    raise SettingsError(f"There is no recipe {recipe!r}. Give one of {names}, or the path of a .yaml file.{hint}")


def parse_settings(arguments: Sequence[str], *, program: str) -> TrainingSettings:
    """
    The settings of a training that a command line gives.

    A run that is resumed without a recipe has the settings that it was begun with.
    """
    recipe, output_dir = _value_of("--recipe", arguments), _value_of("--output-dir", arguments)
    default = TrainingSettings()
    if recipe is not None:
        default = read_recipe(recipe)
    elif "--resume" in arguments and output_dir is not None and (Path(output_dir) / SETTINGS_FILE).is_file():
        default = settings_of_run(Path(output_dir))
    if (data := _value_of("--data", arguments)) is not None:
        # The flag gives it again; this drops the recipe's checksum, which belongs to the recipe's data.
        default = default.changed({"data": data}, where="--data")
    if any(_value_of(flag(name), arguments) is not None for name in LENGTHS):
        # Those of the recipe were for another length.
        default = default.changed(dict.fromkeys(LENGTHS), where="the length")
    return parsed(TrainingSettings, arguments, program=program, default=default)


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """The value of a flag, given as `--flag value` or `--flag=value`, or None."""
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        name, sign, value = argument.partition("=")
        if name.replace("_", "-") == flag:
            return value if sign else following
    return None
