"""
Every setting of a training run, and the recipes: files that name some of them.

Each field is a flag of `chatformer train` and a key of a recipe; the string under it is its documentation and its
help. What neither flag nor recipe says has the default that stands here, and nowhere else.
"""

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
import yaml

from chatformer.storage.names import SETTINGS_FILE

Metric = Literal[
    "loss",
    "perplexity",
    "bits_per_character",
    "source_gain",
    "chrf",
    "bleu",
    "distinct_1",
    "distinct_2",
    "exact_match",
    "distinct_replies",
    "score",
    "last",
]
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_character")
METRICS_WITHOUT_REPLIES = (*LOWER_IS_BETTER, "source_gain", "last")
"""Metrics that need no replies."""


class SettingsError(ValueError):
    """A setting that cannot be: the message says where it stands, what was expected and what was found."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadingSettings:
    """Which conversations are read, and how."""

    data: tuple[str, ...] = ()
    """The conversations: a CSV, TSV, Excel, JSON, JSON Lines or Parquet file, a .txt with a tab between question and
    answer, a URL, a Hub dataset id, or two text files, line by line question and answer; "starter" is the corpus that
    comes with chatformer."""
    question_column: str | None = None
    """Column of the question; found by the usual names unless given."""
    answer_column: str | None = None
    """Column of the answer; found by the usual names unless given."""
    messages_column: str | None = None
    """Column of whole conversations, lists of role and content."""
    system_column: str | None = None
    """Column of system messages; found by the usual names unless given."""
    context_column: str | None = None
    """Column of what a question is about, such as the input of an instruction, which is read behind it; found by the
    usual names unless given."""
    sheet: str | None = None
    """Sheet of an Excel file; the first unless given."""
    encoding: str | None = None
    """Encoding of text files, such as cp949; found out unless given."""
    dataset_split: str = "train"
    """Split of a Hub dataset."""
    dataset_revision: str | None = None
    """Commit, tag or branch of a Hub dataset."""
    dataset_streaming: bool = False
    """Read a Hub dataset row by row, without keeping a copy of its files."""
    skip_bad_rows: bool = False
    """Leave out rows that are empty or broken, and list them beside what is written, instead of stopping."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataSettings(ReadingSettings):
    """Where the conversations come from."""

    data_sha256: str | None = None
    """What the data file's SHA-256 must be; another file is refused."""
    validation_data: tuple[str, ...] = ()
    """Conversations to validate on, instead of a fraction of --data."""
    validation_fraction: float = 0.05
    """Share of the conversations that is kept for validation. Equal questions stay on one side."""
    max_train_samples: int | None = None
    """Use only the first so many rows of --data."""
    other_topics_fraction: float | None = None
    """Share of the replies that an epoch learns behind one to four other conversations instead of alone, others each
    time, for chats that change the subject; unless given, 0.25 where there are conversations of several turns and 0
    elsewhere. With it a model of single questions reads what was said before, and learns to ignore it."""
    token_dropout: float = 0.0
    """Share of the sources' tokens that are left out, others each time: noise against learning by heart."""
    word_swap: float = 0.0
    """Share of the sources' words that change places with their neighbour, others each time."""
    bpe_dropout: float | None = None
    """Share of merges that are skipped when sources are split into tokens, others each time (Provilkov et al.,
    2020); planned from the data unless given."""
    preprocessing_num_workers: int | None = None
    """Processes that encode the data; as many as there are cores and data for unless given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """How text becomes tokens."""

    vocab_size: int = 8000
    """Most tokens that the byte-pair encoding may have; small data gives fewer."""
    max_source_tokens: int = 128
    """Longest input; --too-long says what becomes of longer ones."""
    max_target_tokens: int = 128
    """Longest reply; --too-long says what becomes of longer ones."""
    too_long: Literal["truncate", "drop", "refuse"] = "truncate"
    """What becomes of what is too long: "truncate" leaves out the oldest turns of an input, and exchanges whose reply
    is too long; "drop" leaves out every exchange of which a part is too long; "refuse" stops. What is left out is
    counted."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """What is trained."""

    size: str | None = None
    """A named size: tiny, mini, small, or the paper's base and big; planned from the data unless given."""
    d_model: int | None = None
    """Width of the residual stream; the size's unless given."""
    d_ff: int | None = None
    """Inner width of the feed-forward network; the size's unless given."""
    num_heads: int | None = None
    """Attention heads; the size's unless given."""
    encoder_layers: int | None = None
    """Layers of the encoder; the size's unless given."""
    decoder_layers: int | None = None
    """Layers of the decoder; the size's unless given."""
    dropout: float | None = None
    """Dropout on sub-layers and embeddings; planned from the data unless given."""
    attention_dropout: float | None = None
    """Dropout on attention weights; the paper has none."""
    activation_dropout: float | None = None
    """Dropout inside the feed-forward network; the paper has none."""
    repetition_penalty: float = 1.1
    """Saved in generation_config.json, so that `generate()` has it: above 1, tokens that a reply already has become
    less likely, which ends loops and doubled words; 1 changes nothing."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizationSettings:
    """How it is trained. What is not given is planned from the data."""

    minutes: float | None = None
    """Plan for so many minutes on this machine, measured on a few steps first, instead of for a number of steps."""
    num_train_epochs: float | None = None
    """Passes over the data; planned from the data unless this, --max-steps or --minutes is given."""
    max_steps: int | None = None
    """Optimizer steps in all; takes the place of --num-train-epochs."""
    tokens_per_step: int | None = None
    """Source and target tokens of one optimizer step, over all processes and accumulated micro-batches; planned from
    the data unless given."""
    gradient_accumulation_steps: int = 1
    """Micro-batches that a step is split into, to save memory; the result is the same."""
    learning_rate: float | None = None
    """Peak rate; for the schedule "noam" the factor before the paper's formula, 1 unless given. For the others planned
    from the data unless given."""
    lr_scheduler_type: Literal["noam", "inverse_sqrt", "cosine", "linear", "constant"] = "cosine"
    """How the rate goes after warm-up; "noam" is the paper's Equation 3."""
    warmup_steps: int | None = None
    """Steps over which the rate rises from zero; a fifth of all, at most 1,000, unless given."""
    adam_beta1: float = 0.9
    """Adam's decay of the mean gradient (Section 5.3)."""
    adam_beta2: float = 0.98
    """Adam's decay of the mean squared gradient (Section 5.3)."""
    adam_epsilon: float = 1e-9
    """Added to Adam's denominator (Section 5.3)."""
    weight_decay: float = 0.0
    """Decoupled decay of the weights, not of biases, norms and embeddings."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them alone."""
    label_smoothing_factor: float = 0.1
    """Probability spread evenly over the vocabulary (Section 5.4)."""
    rdrop_alpha: float = 0.0
    """Weight of R-Drop (Liang et al., 2021), which reads each batch twice and asks for equal predictions under other
    dropout; against overfitting on small data, at twice the time. The paper takes 1 to 5."""
    ema_decay: float | None = None
    """Decay of a moving average of the weights, which is then what is evaluated and published; 0 keeps none. Unless
    given, it averages about the last fifth of the steps."""
    average_checkpoints: int = 0
    """Evaluate and publish the mean of the weights at this many last checkpoints (Section 6.1); 0 takes the last."""
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = "auto"
    """Precision of the arithmetic; "auto" takes bf16 where the hardware has it."""
    torch_compile: bool = False
    """Compile the layers with torch.compile, once for batches of all sizes; for GPUs: on CPUs it is slower."""
    seed: int = 42
    """Of the split, the first weights, dropout and the order of the data."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What the run writes and when."""

    output_dir: str | None = None
    """Folder of the finished model, its log and its checkpoint."""
    logging_steps: int = 20
    """Steps between lines of the log."""
    eval_steps: int | None = None
    """Steps between evaluations; a fifth of the run unless given."""
    save_steps: int | None = None
    """Steps between checkpoints; as --eval-steps unless given."""
    save_total_limit: int = 2
    """Checkpoints that are kept; the one before the last is there in case the last is damaged."""
    metric_for_best_model: Metric | None = None
    """What chooses the published model, on the validation data. The score is chrF of the replies divided by bits per
    character, which sees the replies and the loss alike: the loss alone chooses a dull bot. "last" takes the newest.
    Unless given, the score, or the last where there is too little validation data to choose by."""
    early_stopping_patience: int | None = None
    """Stop after this many evaluations without a better one."""
    max_eval_replies: int = 1000
    """Replies generated at each evaluation."""
    push_to_hub: bool = False
    """Publish the model on the Hugging Face Hub, as `chatformer push` does."""
    hub_model_id: str | None = None
    """Name of the repository, such as my-bot or my-name/my-bot; that of --output-dir unless given."""
    hub_strategy: Literal["end", "every_save", "best"] = "end"
    """When to publish: at the end; with every checkpoint as well; or whenever the model is the best so far as well."""
    hub_private_repo: bool = False
    """Make the repository for your eyes only."""
    hub_samples: bool = True
    """Show in the card, and keep in the published log, a few questions of the validation data, which may be private,
    and the bot's replies to them; with --no-hub-samples it only says hello."""
    resume: bool = False
    """Go on from the output folder's last checkpoint."""
    resume_changed: bool = False
    """Go on although settings or data differ from those that the run was begun with."""
    overwrite_output_dir: bool = False
    """Begin anew in a folder that holds an earlier run."""
    dry_run: bool = False
    """Say what would run, try a few steps for an estimate of time and memory, and write nothing."""
    verify_resume: bool = False
    """Prove, in a few minutes, that a run of these settings that is killed and resumed ends with the same bits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSettings(ReadingSettings):
    """Measure a trained model on conversations: its loss, and its replies beside two free baselines."""

    model: Annotated[str, tyro.conf.Positional]
    """Folder of a trained model, or a model's id on the Hub."""
    data: tuple[str, ...] = ()
    """Conversations to measure on, in any form that training takes; those that the run was validated on unless
    given."""
    training_data: tuple[str, ...] = ()
    """What the model was trained on, read as --data is, to tell answers that it has seen from others; the run's own
    unless given."""
    max_target_tokens: int | None = None
    """Longest reference answer; exchanges with longer ones are left out, and counted. The run's limit unless given."""
    max_replies: int | None = None
    """Replies generated, to the first exchanges; to all of them unless given."""
    num_beams: int = 1
    """Beams of the search for replies; 1 is greedy."""
    length_penalty: float = 1.0
    """Exponent of the length that the score of a beam is divided by; above 0 favours long replies."""
    no_repeat_ngram_size: int = 0
    """No run of so many tokens stands twice in a reply, which ends loops; 0 allows all."""
    max_new_tokens: int | None = None
    """Longest reply in tokens; half as much again as the longest reference unless given."""
    bleu_tokenize: Literal["13a", "intl", "char", "zh", "ja-mecab", "ko-mecab", "none"] = "13a"
    """What sacreBLEU counts as words. ko-mecab needs pip install 'sacrebleu[ko]', ja-mecab 'sacrebleu[ja]'."""
    engine: Literal["transformers", "ctranslate2"] = "transformers"
    """What computes; ctranslate2 runs a folder that `chatformer export --to ctranslate2` wrote."""
    batch_tokens: int = 8000
    """Source and target tokens of one batch."""
    revision: str | None = None
    """Commit, tag or branch of a model on the Hub."""
    device: str | None = None
    """Where to run, such as cpu or cuda; a GPU if there is one unless given."""
    output_file: str | None = None
    """The JSON file with all figures and replies; evaluation.json in the model's folder unless given, in the current
    one for a model on the Hub."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorSettings(ReadingSettings):
    """Say in plain words what is wrong with data or with a trained model, and what to do."""

    subject: Annotated[tuple[str, ...], tyro.conf.Positional]
    """What to look at: the folder of a run or a model, or conversations in any form that training takes. With --data
    it is a model, and may be one on the Hub."""
    data: tuple[str, ...] = ()
    """Conversations to try a model on; those that its run was validated on unless given."""
    validation_data: tuple[str, ...] = ()
    """Conversations that training is to be validated on, to find what stands in both; a run has its own."""
    max_source_tokens: int | None = None
    """Longest input that training is to take; the run's limit unless given. Without it, data is measured in
    characters."""
    max_target_tokens: int | None = None
    """Longest reply that training is to take, likewise."""
    max_exchanges: int = 300
    """Exchanges that a model is tried on, from all over the data."""
    revision: str | None = None
    """Commit, tag or branch of a model on the Hub."""
    device: str | None = None
    """Where to run, such as cpu or cuda; a GPU if there is one unless given."""
    output_dir: str | None = None
    """Folder for doctor.json, with all findings, and lengths.png; nothing is written unless given."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Train a Chatformer from random weights on conversations."""

    recipe: str | None = None
    """A recipe's name or file; flags win over it."""
    data: tyro.conf.OmitArgPrefixes[DataSettings] = dataclasses.field(default_factory=DataSettings)
    tokenizer: tyro.conf.OmitArgPrefixes[TokenizerSettings] = dataclasses.field(default_factory=TokenizerSettings)
    model: tyro.conf.OmitArgPrefixes[ModelSettings] = dataclasses.field(default_factory=ModelSettings)
    optimization: tyro.conf.OmitArgPrefixes[OptimizationSettings] = dataclasses.field(
        default_factory=OptimizationSettings
    )
    run: tyro.conf.OmitArgPrefixes[RunSettings] = dataclasses.field(default_factory=RunSettings)

    def flat(self) -> dict[str, Any]:
        """Return every setting by its flag's name."""
        return {"recipe": self.recipe} | {
            field.name: getattr(section, field.name)
            for section in self._sections().values()
            for field in dataclasses.fields(section)
        }

    def _sections(self) -> dict[str, Any]:
        sections = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: section for name, section in sections.items() if dataclasses.is_dataclass(section)}

    def filled(self, before: "TrainingSettings") -> "TrainingSettings":
        """Return these settings with the plan of `before` where they leave it open, as a resumed run has them."""
        given, begun_with = self.flat(), before.flat()
        open_names = [name for name in PLANNED if given[name] is None]
        if any(given[name] is not None for name in LENGTHS):
            open_names = [name for name in open_names if name not in LENGTHS]
        return self.changed({name: begun_with[name] for name in open_names}, where=SETTINGS_FILE)

    def changed(self, changes: Mapping[str, Any], *, where: str) -> "TrainingSettings":
        """
        Return these settings with some changed, given by flat names.

        Raises a `SettingsError` that begins with `where` for a name or a value that does not fit.
        """
        known = self.flat()
        for name in changes:
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {nearest[0]!r}?" if nearest else " `chatformer train --help` lists them."
                raise SettingsError(f"{where}: there is no setting {name!r}.{hint}")
        if "data" in changes:
            # A checksum is of the data that it was stated with.
            changes = {"data_sha256": None, **changes}
        sections: dict[str, Any] = {"recipe": changes.get("recipe", self.recipe)}
        for section_name, section in self._sections().items():
            types = typing.get_type_hints(type(section))
            sections[section_name] = dataclasses.replace(
                section,
                **{
                    name: _converted(value, types[name], f"{where}: {name}")
                    for name, value in changes.items()
                    if name in types
                },
            )
        return TrainingSettings(**sections)


def _converted(value: Any, expected: Any, where: str) -> Any:
    """Return a recipe's value as the type of its setting, or raise a `SettingsError`."""
    options = typing.get_args(expected) if typing.get_origin(expected) is not tuple else ()
    if type(None) in options:
        if value is None:
            return None
        expected = next(option for option in options if option is not type(None))
    if typing.get_origin(expected) is Literal:
        # YAML reads an unquoted no as false.
        value = "no" if value is False and "no" in typing.get_args(expected) else value
        if value in typing.get_args(expected):
            return value
        raise SettingsError(f"{where} must be one of {', '.join(typing.get_args(expected))}, but it is {value!r}.")
    if typing.get_origin(expected) is tuple:
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise SettingsError(f"{where} must be a text or a list of texts, but it is {value!r}.")
    if expected is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        # YAML 1.1 reads 1e-3 as a text.
        try:
            return float(value)
        except ValueError:
            pass
    elif type(value) is expected:
        return value
    name = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[expected]
    raise SettingsError(f"{where} must be {name}, but it is {value!r}.")


Value = typing.TypeVar("Value")

LENGTHS = ("max_steps", "num_train_epochs")
"""Two ways to say how long a run is."""

PLANNED = (
    "size",
    "dropout",
    "bpe_dropout",
    "other_topics_fraction",
    "tokens_per_step",
    *LENGTHS,
    "warmup_steps",
    "learning_rate",
    "ema_decay",
    "eval_steps",
    "metric_for_best_model",
)
"""What is planned from the data where neither a flag nor a recipe says it."""


AT_LEAST = {
    "vocab_size": 1,
    "max_source_tokens": 1,
    "max_target_tokens": 1,
    "max_steps": 1,
    "max_train_samples": 1,
    "tokens_per_step": 1,
    "gradient_accumulation_steps": 1,
    "preprocessing_num_workers": 1,
    "logging_steps": 1,
    "eval_steps": 1,
    "save_steps": 1,
    "save_total_limit": 1,
    "early_stopping_patience": 1,
    "average_checkpoints": 0,
    "max_eval_replies": 0,
    "warmup_steps": 0,
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "rdrop_alpha": 0,
    "repetition_penalty": 1,
}
SHARES = (
    "validation_fraction",
    "other_topics_fraction",
    "token_dropout",
    "word_swap",
    "bpe_dropout",
    "label_smoothing_factor",
    "ema_decay",
    "adam_beta1",
    "adam_beta2",
)


def decided(value: Value | None) -> Value:
    """A setting that is open until a run is planned, once it is."""
    assert value is not None
    return value


def check_settings(settings: TrainingSettings) -> None:
    """Raise a `SettingsError` for settings that cannot be, or cannot work together."""
    data, plan, run = settings.data, settings.optimization, settings.run
    for name, value in settings.flat().items():
        if name in AT_LEAST and value is not None and not value >= AT_LEAST[name]:
            raise SettingsError(f"{_flag(name)} must be at least {AT_LEAST[name]}, but it is {value}.")
        if name in SHARES and value is not None and not 0 <= value < 1:
            raise SettingsError(f"{_flag(name)} must be at least 0 and less than 1, but it is {value}.")
    for name in ("num_train_epochs", "minutes"):
        if (value := getattr(plan, name)) is not None and not value > 0:
            raise SettingsError(f"{_flag(name)} must be more than 0, but it is {value}.")
    if plan.minutes is not None:
        for name in ("num_train_epochs", "max_steps"):
            if getattr(plan, name) is not None:
                raise SettingsError(f"--minutes and {_flag(name)} both say how long to train: give one of them.")
        if run.resume:
            raise SettingsError("--minutes plans a new run; one that is resumed keeps the plan it was begun with.")
    if not data.data:
        raise SettingsError("There is no data to train on: name it with --data, or take a --recipe that has its own.")
    if run.output_dir is None and not (run.dry_run or run.verify_resume):
        raise SettingsError("Say where the model is to be written: --output-dir DIR.")
    for name in ("hub_model_id", "hub_private_repo"):
        if getattr(run, name) and not run.push_to_hub:
            raise SettingsError(f"{_flag(name)} is for --push-to-hub, which is not given.")
    if not run.hub_samples and not run.push_to_hub:
        raise SettingsError("--no-hub-samples is for --push-to-hub, which is not given.")
    chosen = f"--metric-for-best-model {run.metric_for_best_model}"
    if run.metric_for_best_model not in (None, *METRICS_WITHOUT_REPLIES) and not run.max_eval_replies:
        raise SettingsError(f"{chosen} needs replies, but --max-eval-replies is 0.")
    if plan.ema_decay and plan.average_checkpoints:
        raise SettingsError("--ema-decay and --average-checkpoints are two ways to average the weights: choose one.")
    if run.metric_for_best_model == "last" and run.early_stopping_patience is not None:
        raise SettingsError(
            "--early-stopping-patience stops where a figure no longer gets better, but --metric-for-best-model last "
            "looks at none: choose another."
        )
    if not data.validation_data and data.validation_fraction == 0:
        for flag, wanted in (
            (chosen, run.metric_for_best_model not in (None, "loss", "last")),
            ("--early-stopping-patience", run.early_stopping_patience is not None),
        ):
            if wanted:
                raise SettingsError(f"{flag} needs validation data, but --validation-fraction is 0.")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    folder = resources.files("chatformer.training").joinpath("recipes")
    return sorted(path.name.removesuffix(".yaml") for path in folder.iterdir() if path.name.endswith(".yaml"))


def read_recipe(recipe: str, *, based_on_it: tuple[str, ...] = ()) -> TrainingSettings:
    """
    Return the settings of a recipe, by name or by path of a YAML file.

    A recipe that names another one under `recipe`, its file beside its own, changes only what it says itself.
    `based_on_it` are the recipes that led here, and cannot be its base in turn.
    """
    where = f"recipe {recipe}"
    if recipe in based_on_it:
        raise SettingsError(f"{where} is based on itself: {' -> '.join([*based_on_it, recipe])}.")
    text = _recipe_text(recipe)
    try:
        stated = yaml.safe_load(text)
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
        if _is_file_name(base_name):
            base_name = str(Path(recipe).parent / base_name)
        base = read_recipe(base_name, based_on_it=(*based_on_it, recipe))
    return base.changed({**stated, "recipe": recipe}, where=where)


def _is_file_name(recipe: str) -> bool:
    return recipe.endswith((".yaml", ".yml"))


def _recipe_text(recipe: str) -> str:
    if _is_file_name(recipe):
        path = Path(recipe)
        if not path.is_file():
            raise SettingsError(f"There is no recipe file {recipe}.")
        return path.read_text("utf-8")
    if recipe in recipe_names():
        return resources.files("chatformer.training").joinpath(f"recipes/{recipe}.yaml").read_text("utf-8")
    nearest = difflib.get_close_matches(recipe, recipe_names(), n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    names = ", ".join(recipe_names())
    raise SettingsError(f"There is no recipe {recipe!r}; the recipes are {names}, or the path of a .yaml file.{hint}")


def parse_settings(arguments: Sequence[str], *, program: str) -> TrainingSettings:
    """
    Return the settings that a command line states: defaults, then its recipe, then its flags.

    A run that is resumed without a recipe has the settings that it was begun with.
    """
    recipe, output_dir = _value_of("--recipe", arguments), _value_of("--output-dir", arguments)
    default = TrainingSettings()
    if recipe is not None:
        default = read_recipe(recipe)
    elif "--resume" in arguments and output_dir is not None:
        begun_with = Path(output_dir) / SETTINGS_FILE
        if begun_with.is_file():
            default = read_recipe(str(begun_with))
    if (data := _value_of("--data", arguments)) is not None:
        # The flag says it once more; here the recipe's checksum goes with its data.
        default = default.changed({"data": data}, where="--data")
    return tyro.cli(TrainingSettings, args=list(arguments), default=default, prog=program)


def _value_of(flag: str, arguments: Sequence[str]) -> str | None:
    """Return the value that a flag is given, as `--flag value` or `--flag=value`, or None."""
    for argument, following in zip(arguments, [*arguments[1:], None], strict=False):
        name, sign, value = argument.partition("=")
        if name.replace("_", "-") == flag:
            return value if sign else following
    return None
