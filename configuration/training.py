"""
The settings of a training run.

Each field is a flag of `chatformer train` and a key of a recipe, and the string under it is its help. What neither says
has the default of the field; None leaves a setting open, to the plan of the run or to the size of the model.
"""

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from tyro.conf import OmitArgPrefixes

from .data import BleuTokenize, DataSettings, TokenizerSettings
from .declaring import (
    AtLeast,
    AtMost,
    Elsewhere,
    MoreThan,
    Seed,
    SettingsError,
    Share,
    Without,
    check,
    converted,
    did_you_mean,
    flag,
    given,
)
from .model import ModelSettings, check_model

Value = TypeVar("Value")

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
Tracker = Literal["tensorboard", "trackio", "wandb"]
LOWER_IS_BETTER = ("loss", "perplexity", "bits_per_character")
METRICS_WITHOUT_REPLIES = (*LOWER_IS_BETTER, "source_gain", "last")
"""Metrics that need no replies."""
METRICS_BY_PACKAGES = ("chrf", "bleu", "score")
"""Metrics that the packages of the extra `chatformer[metrics]` compute."""

LENGTHS = ("minutes", "max_steps", "num_train_epochs")
"""Ways to give the length of a run; a run has one of them."""

PLANNED = (
    "size",
    "dropout",
    "dropout_until",
    "bpe_dropout",
    "temperature",
    "top_p",
    "other_topics_fraction",
    "tokens_per_step",
    "max_steps",
    "num_train_epochs",
    "warmup_steps",
    "learning_rate",
    "ema_decay",
    "eval_steps",
    "metric_for_best_model",
)
"""What is planned from the data unless a flag or a recipe gives it."""


@dataclass(frozen=True, kw_only=True)
class OptimizationSettings:
    """How it is trained. What is not given is planned from the data."""

    minutes: Annotated[float, MoreThan(0)] | None = None
    """Plan for so many minutes on this machine, measured on a few steps first, instead of for a number of steps."""
    num_train_epochs: Annotated[float | None, MoreThan(0), Elsewhere("epochs", "num_epochs")] = None
    """Passes over the data; planned from the data unless this, --max-steps or --minutes is given."""
    max_steps: Annotated[int, AtLeast(1)] | None = None
    """Optimizer steps in all, in place of --num-train-epochs."""
    tokens_per_step: Annotated[int | None, AtLeast(1), Elsewhere("batch_size", "per_device_train_batch_size")] = None
    """Source and target tokens of one optimizer step, over all processes and accumulated micro-batches; more where
    eight exchanges, the fewest that a step has, are longer. Planned from the data unless given."""
    gradient_accumulation_steps: Annotated[int, AtLeast(1)] = 1
    """Micro-batches that a step is split into, to save memory; the result is the same."""
    learning_rate: Annotated[float | None, MoreThan(0), Elsewhere("lr")] = None
    """Peak rate; for the schedule "noam" the factor before the paper's formula, 1 unless given. For the others planned
    from the data unless given."""
    lr_scheduler_type: Literal["noam", "inverse_sqrt", "cosine", "linear", "constant"] = "cosine"
    """How the rate goes after warm-up; "noam" is the paper's Equation 3."""
    warmup_steps: Annotated[int, AtLeast(0)] | None = None
    """Steps over which the rate rises from zero; a fifth of all, at most 1000, unless given."""
    adam_beta1: Share = 0.9
    """Adam's decay of the mean gradient (Section 5.3)."""
    adam_beta2: Share = 0.98
    """Adam's decay of the mean squared gradient (Section 5.3)."""
    adam_epsilon: Annotated[float, MoreThan(0)] = 1e-9
    """Added to Adam's denominator (Section 5.3)."""
    weight_decay: Annotated[float, AtLeast(0)] = 0.0
    """Decoupled decay of the weights, not of biases, norms and embeddings."""
    max_grad_norm: Annotated[float, AtLeast(0)] = 1.0
    """Gradients are scaled down to this norm; 0 leaves them alone."""
    label_smoothing_factor: Share = 0.1
    """Probability spread evenly over the vocabulary (Section 5.4)."""
    rdrop_alpha: Annotated[float, AtLeast(0)] = 0.0
    """Weight of R-Drop (Liang et al., 2021), which reads each batch twice and asks for equal predictions under other
    dropout; against overfitting on small data, at twice the time. The paper takes 1 to 5."""
    dropout_until: Annotated[float, AtLeast(0), AtMost(1)] | None = None
    """Share of the steps, from the first, that --dropout is for. Without it the rest learns by heart, quickly, what the
    model so far has understood: for data whose single things matter, such as pictures (early dropout, Liu et al.,
    2023). Unless given, 0.6 for pictures, and all steps for anything else."""
    ema_decay: Share | None = None
    """Decay of a moving average of the weights, which is then what is evaluated and published; 0 keeps none. Unless
    given, it averages about the last fifth of the steps."""
    average_checkpoints: Annotated[int, AtLeast(0)] = 0
    """Evaluate and publish the mean of the weights at this many last checkpoints (Section 6.1); 0 takes the last."""
    mixed_precision: Annotated[Literal["auto", "no", "bf16", "fp16"], Elsewhere("bf16", "fp16")] = "auto"
    """Precision of the arithmetic; "auto" takes bf16 where the hardware has it."""
    torch_compile: bool = False
    """Compile the layers, and on a GPU the loss, with torch.compile, once for batches of all sizes, in about a minute.
    For GPUs: on CPUs it is slower."""
    seed: Seed = 42
    """Of the split, the first weights, dropout and the order of the data."""

    @property
    def share_with_dropout(self) -> float:
        """The share of the steps, from the first, that have dropout: all of a run older than such plans."""
        return 1.0 if self.dropout_until is None else self.dropout_until


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """What the run writes and when."""

    output_dir: Annotated[str | None, Elsewhere("save_dir")] = None
    """Folder of the finished model, its log and its checkpoint, which every training needs."""
    logging_steps: Annotated[int, AtLeast(1)] = 20
    """Steps between lines of the log."""
    log_with: tuple[Tracker, ...] = ()
    """Trackers that get the figures of the log too: tensorboard, which writes into the folder runs of the output
    folder, trackio or wandb. A resumed run goes on where it was reported before."""
    eval_steps: Annotated[int, AtLeast(1)] | None = None
    """Steps between evaluations; a fifth of the run unless given."""
    save_steps: Annotated[int, AtLeast(1)] | None = None
    """Steps between checkpoints; as --eval-steps unless given, and with --average-checkpoints such that they are of the
    last fifth of the steps."""
    save_total_limit: Annotated[int, AtLeast(1)] = 2
    """Checkpoints that are kept; the one before the last is there in case the last is damaged."""
    metric_for_best_model: Metric | None = None
    """What chooses the published model, on the validation data. The score is chrF of the replies divided by bits per
    character, which sees the replies and the loss alike: the loss alone chooses a dull bot. "last" takes the newest.
    Unless given, the score, of prose the loss, or the last if there is too little validation data to choose by."""
    early_stopping_patience: Annotated[int, AtLeast(1)] | None = None
    """Stop after this many evaluations without a better one."""
    max_eval_replies: Annotated[int, AtLeast(0)] = 1000
    """Replies generated at each evaluation."""
    bleu_tokenize: BleuTokenize = "13a"
    """What BLEU counts as words at each evaluation: "none" for text whose tokens stand between spaces already."""
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
    resume: Annotated[bool, Without("verify_resume")] = False
    """Go on from the output folder's last checkpoint."""
    resume_changed: bool = False
    """Go on although settings or data differ from those that the run was begun with."""
    overwrite_output_dir: bool = False
    """Begin again in a folder that holds an earlier run; only what that run wrote is removed."""
    dry_run: Annotated[bool, Without("verify_resume")] = False
    """Say what would run, or why it cannot, try a few steps for an estimate of time and memory, and write nothing."""
    verify_resume: bool = False
    """Prove, in a few minutes, that a run of these settings that is killed and resumed ends with the same bits."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Train a Chatformer from random weights on conversations."""

    recipe: str | None = None
    """A recipe's name or file; flags win over it."""
    data: OmitArgPrefixes[DataSettings] = dataclasses.field(default_factory=DataSettings)
    tokenizer: OmitArgPrefixes[TokenizerSettings] = dataclasses.field(default_factory=TokenizerSettings)
    model: OmitArgPrefixes[ModelSettings] = dataclasses.field(default_factory=ModelSettings)
    optimization: OmitArgPrefixes[OptimizationSettings] = dataclasses.field(default_factory=OptimizationSettings)
    run: OmitArgPrefixes[RunSettings] = dataclasses.field(default_factory=RunSettings)

    def flat(self) -> dict[str, Any]:
        """Every setting by the name of its flag."""
        return {"recipe": self.recipe} | {
            field.name: getattr(section, field.name)
            for section in self._sections().values()
            for field in dataclasses.fields(section)
        }

    def _sections(self) -> dict[str, Any]:
        sections = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: section for name, section in sections.items() if dataclasses.is_dataclass(section)}

    def filled(self, before: "TrainingSettings") -> "TrainingSettings":
        """These settings, and the plan of `before` where they leave it open, as a resumed run has them."""
        given, begun_with = self.flat(), before.flat()
        open_names = [name for name in (*PLANNED, "stride", "save_steps") if given[name] is None]
        if any(given[name] is not None for name in LENGTHS):
            open_names = [name for name in open_names if name not in LENGTHS]
        return self.changed({name: begun_with[name] for name in open_names}, where="the run so far")

    def changed(self, changes: Mapping[str, Any], *, where: str) -> "TrainingSettings":
        """
        These settings with some changed, given by flat names.

        Raises a `SettingsError` that begins with `where` for a name or a value that does not fit.
        """
        known = self.flat()
        for name in changes:
            if name not in known:
                hint = did_you_mean(name, known) or " `chatformer train --help` lists them."
                raise SettingsError(f"{where}: there is no setting {name!r}.{hint}")
        if "data" in changes:
            # A checksum belongs to the data that it was given with.
            changes = {"data_sha256": None, **changes}
        sections: dict[str, Any] = {"recipe": changes.get("recipe", self.recipe)}
        for section_name, section in self._sections().items():
            types = typing.get_type_hints(type(section))
            sections[section_name] = dataclasses.replace(
                section,
                **{
                    name: converted(value, types[name], f"{where}: {name}")
                    for name, value in changes.items()
                    if name in types
                },
            )
        return TrainingSettings(**sections)


@dataclass(frozen=True, kw_only=True)
class QuickstartSettings:
    """Train a small chatbot on the starter corpus in a few minutes, then talk to it. Needs no network."""

    output_dir: str = "chatformer-quickstart"
    """Folder of the model. One that is trained already is only talked to, and an interrupted training goes on."""
    max_steps: Annotated[int, AtLeast(1)] | None = None
    """Steps of training; as the recipe `quickstart` has it unless given."""


def decided(value: Value | None) -> Value:
    """A setting that is open until a run is planned, once it is planned."""
    assert value is not None
    return value


def check_settings(settings: TrainingSettings) -> None:
    """Raise a `SettingsError` for settings that are not possible, alone or together."""
    data, plan, run = settings.data, settings.optimization, settings.run
    check(settings)
    if plan.minutes is not None and run.resume:
        raise SettingsError("--minutes plans a new run; one that is resumed keeps the plan it was begun with.")
    lengths = [flag(name) for name in LENGTHS if getattr(plan, name) is not None]
    if len(lengths) > 1:
        raise SettingsError(f"{' and '.join(lengths)} each say how long to train: give one of them.")
    if run.resume and run.overwrite_output_dir:
        raise SettingsError("--resume goes on with a run, and --overwrite-output-dir removes it: give one of them.")
    if run.resume_changed and not run.resume:
        raise SettingsError("--resume-changed is for --resume, which is not given.")
    check_model(settings.model)
    architecture = settings.model.architecture
    if plan.torch_compile and architecture != "transformer":
        raise SettingsError(
            f"--torch-compile compiles the Transformer's layers; --architecture {architecture} has none. Leave it out."
        )
    if not data.data and run.resume and run.output_dir is not None:
        raise SettingsError(f"There is nothing to resume: {run.output_dir} has no run of a training.")
    if not data.data:
        raise SettingsError("There is no data to train on: name it with --data, or take a --recipe that has its own.")
    if run.output_dir is None and run.resume and not run.verify_resume:
        raise SettingsError("Say which run is to be resumed: --output-dir DIR.")
    if run.output_dir is None and not (run.dry_run or run.verify_resume):
        raise SettingsError("Say where the model is to be written: --output-dir DIR.")
    # Not a warning, which would be read when the training is over.
    for name in ("hub_model_id", "hub_strategy", "hub_private_repo", "hub_samples"):
        if name in given(run) and not run.push_to_hub:
            name = name if getattr(run, name) else f"no_{name}"
            raise SettingsError(f"{flag(name)} is for --push-to-hub, which is not given.")
    dropouts = settings.model.dropout, settings.model.attention_dropout, settings.model.activation_dropout
    if plan.rdrop_alpha and dropouts[0] == 0 and not any(dropouts):
        raise SettingsError("--rdrop-alpha compares predictions under other dropout, but --dropout is 0.")
    if plan.rdrop_alpha and plan.share_with_dropout < 1:
        raise SettingsError("--rdrop-alpha compares predictions under other dropout, which --dropout-until ends.")
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
    if data.data_repeats and (len(data.data_repeats) != len(data.data) or len(data.data) < 2):
        raise SettingsError(
            f"--data-repeats has {len(data.data_repeats)} numbers, and --data {len(data.data)} names: it needs one for "
            "each of several names."
        )
    if min(data.data_repeats, default=1) < 1:
        raise SettingsError(f"--data-repeats must be at least 1, but one number is {min(data.data_repeats)}.")
    if not data.validation_data and data.validation_fraction == 0:
        for named, wanted in (
            (chosen, run.metric_for_best_model not in (None, "loss", "last")),
            ("--early-stopping-patience", run.early_stopping_patience is not None),
        ):
            if wanted:
                raise SettingsError(f"{named} needs validation data, but --validation-fraction is 0.")
