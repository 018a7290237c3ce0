"""
What is wrong with a trained model, in plain words: checks of its weights, its parts, its replies and its run's log.

Each check is a function that returns its findings. Why a bot always says the same is asked in one place, `causes`.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from chatformer.chat.engines import TransformersEngine
from chatformer.data.exchanges import EncodedExchanges
from chatformer.evaluation.scoring import (
    Evaluation,
    Outcome,
    compare,
    figures_of,
    length_batches,
    outcome_of,
)
from chatformer.storage.names import LOG_FILE, SETTINGS_FILE
from chatformer.storage.reading import read_json_lines
from chatformer.training.settings import (
    EvaluationSettings,
    OptimizationSettings,
    TrainingSettings,
    decided,
    read_recipe,
)

from .baselines import check_baselines
from .findings import Finding, percent, shortened, shown, well

LISTENING, HARDLY_LISTENING = 0.05, 0.01
"""Share of the loss that the true source saves, against another's, from which a model listens, or hardly does."""

SAME_REPLY, OFTEN_SAME_REPLY = 0.5, 0.1
"""Share of the most frequent reply to different questions above which it is always, or often, the same."""

COLLAPSED_NORM = 0.1
"""Mean size of a norm's weights, which begin at 1, under which next to nothing comes through it."""

NOTICEABLE = 0.01
"""Relative change under which two tensors count as the same when an input changed that should matter."""

ROUNDING = 1e-3
"""Relative change that the order of sums may make when an input changed that should not matter."""

FEW_STEPS = 2000

FEW_QUESTIONS = 10
"""Different questions under which nothing can be said about replies in general."""

TRIED_PARTS = 8
"""Exchanges that checks of single parts look at."""


@dataclass(frozen=True)
class Trial:
    """Hold what a model made of some exchanges."""

    exchanges: EncodedExchanges
    outcome: Outcome
    evaluation: Evaluation


def try_out(
    model: Any, tokenizer: Any, exchanges: EncodedExchanges, *, training_replies: Collection[str] | None = None
) -> Trial:
    """Score the exchanges, and reply to them greedily."""
    outcome = outcome_of(TransformersEngine(model), tokenizer, exchanges, max_replies=None, show_progress=True)
    options = {} if training_replies is None else {"training_replies": set(training_replies)}
    return Trial(exchanges, outcome, figures_of(exchanges, outcome, range(len(exchanges)), **options))


def loss_on(model: Any, exchanges: EncodedExchanges) -> float:
    """Return the mean negative log-likelihood of a target token, in nats."""
    engine = TransformersEngine(model)
    nats = sum(
        sum(engine.score([exchanges.source(i) for i in batch], [exchanges.target(i) for i in batch]))
        for batch in length_batches(exchanges, len(exchanges), EvaluationSettings.batch_tokens)
    )
    return nats / int(exchanges.target_lengths.sum())


def different_questions(exchanges: EncodedExchanges, count: int) -> EncodedExchanges:
    """Return at most `count` exchanges from all over the data, no two of which have the same source."""
    first = {exchanges.source(index).tobytes(): index for index in reversed(range(len(exchanges)))}
    indices = np.array(sorted(first.values()))
    if len(indices) > count:
        indices = indices[np.linspace(0, len(indices) - 1, count).round().astype(int)]
    return EncodedExchanges(exchanges.rows.select(indices).flatten_indices(keep_in_memory=True))


@dataclass(frozen=True)
class RunLog:
    """Hold what a run was begun with and what its log says."""

    settings: TrainingSettings
    lines: Sequence[dict[str, Any]]

    @classmethod
    def of(cls, folder: Path) -> "RunLog | None":
        """Return the log of a run's folder, or None where it is no run's."""
        if not (folder / SETTINGS_FILE).is_file() or not (folder / LOG_FILE).is_file():
            return None
        return cls(read_recipe(str(folder / SETTINGS_FILE)), read_json_lines(folder / LOG_FILE))

    @cached_property
    def steps(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "loss" in line]

    @cached_property
    def evaluations(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "eval_loss" in line]

    @property
    def num_steps(self) -> int:
        return max((line["step"] for line in self.lines), default=0)

    @property
    def gains(self) -> list[float]:
        """Bits per character that listening saved at each evaluation, as a share of all."""
        return [line["eval_source_gain"] / line["eval_bits_per_character"] for line in self.evaluations]

    @property
    def never_listened(self) -> bool:
        """Whether the model was evaluated, and did not listen at any evaluation."""
        return bool(self.gains) and max(self.gains) < HARDLY_LISTENING


def check_weights(model: Any, missing: Collection[str] = ()) -> list[Finding]:
    """Find weights that are no numbers, that hold one number, or that the files did not have."""
    weights = dict(model.named_parameters())
    broken = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    # Norms and biases begin so, and may stay so; a matrix of one number tells nothing apart.
    constant = [
        name for name, weight in weights.items() if weight.dim() > 1 and name not in broken and not weight.std() > 0
    ]
    findings = []
    if missing:
        findings.append(
            Finding(
                check="missing weights",
                severity="problem",
                title="Weights are missing",
                found=f"{len(missing)} weights of the model are not in its files and were drawn at random.",
                what_to_do="Copy or download the folder again, all files from one training.",
                examples=shown(sorted(missing)),
            )
        )
    if broken:
        findings.append(
            Finding(
                check="finite weights",
                severity="problem",
                title="Weights are not numbers",
                found=f"{len(broken)} of {len(weights)} have entries that are infinite or NaN: the training diverged, "
                "or the file is damaged.",
                what_to_do="Take a checkpoint from before. Train with half the --learning-rate, more --warmup-steps, "
                "--max-grad-norm 1 and --mixed-precision no.",
                examples=shown(broken),
            )
        )
    if constant:
        findings.append(
            Finding(
                check="constant weights",
                severity="problem",
                title="Weights are all the same",
                found=f"{len(constant)} of {len(weights)} are matrices of one number: whatever goes in, the same "
                "comes out.",
                what_to_do="Look at where these weights were made or converted, and train or convert anew.",
                examples=shown(constant),
            )
        )
    count = sum(weight.numel() for weight in weights.values())
    found = f"{count:,} numbers, all finite, and no matrix is constant."
    return findings or well("weights", "The weights are numbers", found)


def check_embeddings(model: Any) -> list[Finding]:
    """Find names of one embedding that no longer stand for the same matrix."""
    if not model.config.tie_word_embeddings:
        return []
    weights = dict(model.named_parameters(remove_duplicate=False))
    tied = {name: source for name, source in (model._tied_weights_keys or {}).items() if {name, source} <= set(weights)}
    apart = [name for name, source in tied.items() if weights[name] is not weights[source]]
    if not apart:
        found = "Source, target and output share one matrix, as the configuration says."
        return well("tied embeddings", "The embeddings are tied", found)
    return [
        Finding(
            check="tied embeddings",
            severity="problem",
            title="The embeddings are not tied",
            found="The configuration says that source, target and output share one matrix, but they do not: when the "
            "model is saved, one of them is kept, and the others are lost.",
            what_to_do="Call model.tie_weights() after replacing an embedding, and train on from there.",
            examples=shown(apart),
        )
    ]


def check_vocabulary(model: Any, tokenizer: Any) -> list[Finding]:
    """Find a tokenizer that is not the model's."""
    rows = model.get_input_embeddings().weight.shape[0]
    differing = [
        f"{name}: {ours} in the tokenizer, {theirs} in the model"
        for name in ("pad_token_id", "eos_token_id")
        if (ours := getattr(tokenizer, name)) != (theirs := getattr(model.config, name))
        and not (isinstance(theirs, list) and ours in theirs)
    ]
    if len(tokenizer) > rows or differing:
        return [
            Finding(
                check="vocabulary",
                severity="problem",
                title="The tokenizer is not the model's",
                found=f"The tokenizer has {len(tokenizer):,} tokens, the model {rows:,} rows for them"
                + (", and control tokens differ." if differing else "."),
                what_to_do="Put the tokenizer of the model's own training into its folder. Tokens that were added "
                "later need model.resize_token_embeddings(len(tokenizer)) and further training.",
                examples=shown(differing),
            )
        ]
    found = f"{len(tokenizer):,} tokens, {rows:,} rows."
    return well("vocabulary", "The tokenizer fits the model", found)


def check_template(tokenizer: Any) -> list[Finding]:
    """Find a tokenizer that does not know how conversations are written."""
    if tokenizer.chat_template is not None:
        return well("chat template", "The chat template is there")
    return [
        Finding(
            check="chat template",
            severity="problem",
            title="The chat template is missing",
            found="The tokenizer does not say how a conversation becomes a source: whoever talks to the model guesses, "
            "and a model that reads what it was not trained on talks nonsense.",
            what_to_do="Copy chat_template.jinja from the run's folder, or publish the tokenizer anew with it.",
        )
    ]


def check_generation(model: Any, target_lengths: np.ndarray) -> list[Finding]:
    """Find settings of generate() with which replies break off or never end."""
    settings, findings = model.generation_config, []
    if settings.eos_token_id is None:
        findings.append(
            Finding(
                check="generation end",
                severity="problem",
                title="Replies never end",
                found="generation_config.json names no eos_token_id.",
                what_to_do='Put "eos_token_id" into it, the id of the end token in the tokenizer.',
            )
        )
    # Where nothing is said, transformers stops after 20 tokens.
    limit = settings.max_new_tokens or settings.max_length or 20
    cut = float((target_lengths > limit).mean()) if len(target_lengths) else 0.0
    if settings.max_new_tokens is None or cut:
        said = f"max_new_tokens is {settings.max_new_tokens}"
        findings.append(
            Finding(
                check="generation length",
                severity="problem" if cut > 0.05 else "hint",
                title="Replies may break off",
                found=f"In generation_config.json {said}, so that a reply has {limit} tokens at most; "
                f"{percent(cut)} of the reference replies are longer.",
                what_to_do=f'Put "max_new_tokens": {max(64, int(target_lengths.max(initial=0)))} into it.',
            )
        )
    found = f"Replies end at the end token, or after {limit} tokens."
    return findings or well("generation", "Replies can end", found)


def check_round_trip(tokenizer: Any, texts: Iterable[str]) -> list[Finding]:
    """Find texts that are not the same after they were encoded and decoded."""
    texts = list(texts)
    lost = []
    for text in texts:
        ids = tokenizer(text, split_special_tokens=True)["input_ids"]
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        if decoded != text:
            lost.append(f"{shortened(text)} became {shortened(decoded)}")
    if not lost:
        found = f"{len(texts):,} texts come back from the tokenizer as they went in."
        return well("round trip", "No text is lost", found)
    return [
        Finding(
            check="round trip",
            severity="problem" if len(lost) > 0.05 * len(texts) else "hint",
            title="The tokenizer loses text",
            found=f"{len(lost):,} of {len(texts):,} texts come back as other ones. The model cannot say what its "
            "tokenizer cannot write.",
            what_to_do="Train the tokenizer on text of this kind; `chatformer train` makes one that loses nothing.",
            examples=shown(lost),
        )
    ]


def _logits(model: Any, sources: torch.Tensor, mask: torch.Tensor, decoder_ids: torch.Tensor) -> torch.Tensor:
    return model(
        input_ids=sources.to(model.device),
        attention_mask=mask.to(model.device),
        decoder_input_ids=decoder_ids.to(model.device),
        use_cache=False,
    ).logits.float()


def _row(ids: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.asarray(ids, dtype=np.int64)).unsqueeze(0)


def _decoder_ids(model: Any, target: np.ndarray) -> torch.Tensor:
    return model.prepare_decoder_input_ids_from_labels(_row(target))


def _moved(one: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference, relative to how much the logits differ among each other."""
    return float((one - other).abs().max() / one.std().clamp(min=1e-9))


@torch.inference_mode()
def check_future(model: Any, exchanges: EncodedExchanges) -> list[Finding]:
    """Find a decoder that sees the tokens that it is to predict."""
    moved = 0.0
    for index in range(min(TRIED_PARTS, len(exchanges))):
        source, decoder_ids = _row(exchanges.source(index)), _decoder_ids(model, exchanges.target(index))
        mask = torch.ones_like(source)
        logits = _logits(model, source, mask, decoder_ids)
        place = (decoder_ids.shape[1] + 1) // 2
        changed = decoder_ids.clone()
        changed[:, place:] = (changed[:, place:] + 1) % model.config.vocab_size
        moved = max(moved, _moved(logits[:, :place], _logits(model, source, mask, changed)[:, :place]))
    if moved <= ROUNDING:
        found = "Other words later in a reply change nothing before them."
        return well("future", "The future cannot be seen", found)
    return [
        Finding(
            check="future",
            severity="problem",
            title="The decoder sees the future",
            found=f"Words that come later in a reply move the predictions before them (by {moved:.2g} of their "
            "spread). In training the model reads the answer off instead of learning it: the loss falls wonderfully, "
            "and the replies are nonsense.",
            what_to_do="Mend the mask of the decoder's self-attention, or load with attn_implementation='eager' to see "
            "whether an attention of your own is at fault; then train anew.",
        )
    ]


@torch.inference_mode()
def check_padding(model: Any, exchanges: EncodedExchanges) -> list[Finding]:
    """Find a model whose predictions depend on the padding beside a source."""
    pad, padding = model.config.pad_token_id, 5
    moved = {"right": 0.0, "left": 0.0}
    for index in range(min(TRIED_PARTS, len(exchanges))):
        source, decoder_ids = _row(exchanges.source(index)), _decoder_ids(model, exchanges.target(index))
        mask = torch.ones_like(source)
        alone = _logits(model, source, mask, decoder_ids)
        for side in moved:
            pads = (padding, 0) if side == "left" else (0, padding)
            padded = nn.functional.pad(source, pads, value=pad)
            logits = _logits(model, padded, nn.functional.pad(mask, pads), decoder_ids)
            moved[side] = max(moved[side], _moved(alone, logits))
    batch = list(range(min(TRIED_PARTS, len(exchanges))))
    pairs = [[exchanges.source(index) for index in batch], [exchanges.target(index) for index in batch]]
    engine = TransformersEngine(model)
    together = engine.score(*pairs)
    alone_nats = [engine.score([source], [target])[0] for source, target in zip(*pairs, strict=True)]
    moved["batch"] = max(abs(one - other) / max(one, 1) for one, other in zip(alone_nats, together, strict=True))
    harmful = [name for name, value in moved.items() if value > ROUNDING]
    if not harmful:
        found = "Predictions are the same with padding on either side, and in a batch as alone."
        return well("padding", "Padding is harmless", found)
    where = {"right": "on the right", "left": "on the left", "batch": "in a batch with longer ones"}
    return [
        Finding(
            check="padding",
            # Chatformer itself never pads sources on the left.
            severity="hint" if harmful == ["left"] else "problem",
            title="Padding changes the replies",
            found="Predictions move when a source is padded "
            + ", ".join(f"{where[name]} (by {moved[name]:.2g})" for name in harmful)
            + ": the same question gets other answers in other company.",
            what_to_do="Pad on the right only."
            if harmful == ["left"]
            else "Mend the attention mask or the positions; then train anew, as it was trained with padding too.",
        )
    ]


def check_knowledge(trial: Trial, vocab_size: int) -> list[Finding]:
    """Find a model that predicts no better than by guessing among all tokens."""
    loss, guessing = trial.evaluation.loss, math.log(vocab_size)
    if loss < 0.95 * guessing:
        found = f"Loss {loss:.3f} nats per token; guessing among all {vocab_size:,} tokens has {guessing:.3f}."
        return well("knowledge", "It has learnt something", found)
    return [
        Finding(
            check="knowledge",
            severity="problem",
            title="It knows no more than by guessing",
            found=f"Its loss, {loss:.3f} nats per token, is that of guessing among all {vocab_size:,} tokens "
            f"({guessing:.3f}).",
            what_to_do="Check that the folder holds the trained weights and their own tokenizer, and that the data is "
            "of the kind that it was trained on; otherwise train it.",
        )
    ]


@dataclass(frozen=True)
class Cause:
    """Say why a model does not listen or always says the same, and what to do."""

    found: str
    what_to_do: str


def slower(plan: OptimizationSettings) -> str:
    """Return flags of a training that begins more gently."""
    rate, warmup_steps = decided(plan.learning_rate) / 2, max(1000, 2 * decided(plan.warmup_steps))
    if plan.lr_scheduler_type != "noam":
        # Of the paper's schedule it is a factor; of the others, more than this is rarely good.
        rate = min(rate, 1e-3)
    return f"--learning-rate {rate:g} --warmup-steps {warmup_steps}, for {5 * warmup_steps:,} steps or more"


@torch.inference_mode()
def blocked_part(model: Any, exchanges: EncodedExchanges) -> str | None:
    """Return what is wrong with the part of a model behind which nothing is left of the source, if there is one."""
    encoder = model.get_encoder()
    norms = [module for module in encoder.modules() if isinstance(module, nn.LayerNorm)]
    scale = float(norms[-1].weight.abs().mean()) if norms else 1.0
    if scale < COLLAPSED_NORM:
        return (
            f"The encoder's last norm has shrunk to {scale:.2g}, from 1 in the beginning: whatever is asked, next to "
            "nothing of it reaches the decoder. That is never made good."
        )
    encoded = []
    for index in range(min(TRIED_PARTS, len(exchanges))):
        source = _row(exchanges.source(index)).to(model.device)
        encoded.append(encoder(input_ids=source, attention_mask=torch.ones_like(source))[0])
    means_ND = torch.cat([states.mean(1) for states in encoded])
    spread = float(means_ND.std(0).norm() / means_ND.norm(dim=1).mean().clamp(min=1e-9))
    if spread < NOTICEABLE:
        return f"The encoder gives the same for every question: they differ by {percent(spread)} of their size."
    decoder_ids = _decoder_ids(model, exchanges.target(0)).to(model.device)
    logits = [
        model(encoder_outputs=(states,), decoder_input_ids=decoder_ids, use_cache=False).logits.float()
        for states in encoded
    ]
    effect = max(_moved(logits[0], other) for other in logits[1:])
    if effect < NOTICEABLE:
        return (
            "The encoder tells questions apart, but the decoder does not read them: the cross-attention lets nothing "
            f"through, and another question moves the predictions by {percent(effect)} of their spread."
        )
    return None


def causes(
    model: Any, exchanges: EncodedExchanges, log: RunLog | None, most_frequent_answer: float | None
) -> list[Cause]:
    """
    Return why the model does not listen or always says the same, the most probable cause first.

    `most_frequent_answer` is the share of the training's most frequent answer, where it is known.
    """
    found = []
    blocked = blocked_part(model, exchanges)
    never = log is not None and log.never_listened
    if blocked is not None:
        advice = "Train anew with half the --learning-rate and twice the --warmup-steps; going on does not help."
        found.append(Cause(blocked, "" if never else advice))
    if log is not None:
        found += causes_in_log(log, is_blocked=blocked is not None)
    return found + causes_in_answers(most_frequent_answer)


def causes_in_answers(most_frequent_answer: float | None) -> list[Cause]:
    """Return that a share of the training's answers is the same one, where the share is known and large."""
    if most_frequent_answer is None or most_frequent_answer <= OFTEN_SAME_REPLY:
        return []
    found = f"{percent(most_frequent_answer)} of the answers that it learnt are one and the same."
    return [Cause(found, "Keep a few of these exchanges in the data and leave out the others.")]


def causes_in_log(log: RunLog, *, is_blocked: bool = False) -> list[Cause]:
    """Return the causes that a log shows; of a model that `is_blocked` it is not that it took few steps."""
    if not log.gains:
        return []
    plan = log.settings.optimization
    begun = f"It did not listen at any of {len(log.gains)} evaluations"
    if log.never_listened and log.num_steps < FEW_STEPS and not is_blocked:
        return [
            Cause(
                f"{begun}, but it has taken only {log.num_steps:,} steps. A model first learns which words "
                "are frequent, and begins to listen later, often after one or two thousand steps.",
                f"Train on, for {FEW_STEPS:,} steps or more (--num-train-epochs, --max-steps); a smaller "
                "--tokens-per-step makes more steps of the same data.",
            )
        ]
    if log.never_listened:
        return [
            Cause(
                f"{begun}, from the beginning of {log.num_steps:,} steps: the rate (--learning-rate "
                f"{plan.learning_rate:g}) was too high or its warm-up (--warmup-steps {plan.warmup_steps}) "
                "too short, and the decoder learnt to speak before the encoder had anything to say.",
                f"Train anew with {slower(plan)}; going on does not help. The log shows at each evaluation "
                "what is saved by listening.",
            )
        ]
    if log.gains[-1] < 0.5 * max(log.gains):
        return [
            Cause(
                f"It had listened before ({percent(max(log.gains))} of the loss) and stopped.",
                "Take an earlier checkpoint, and train on from there with a lower --learning-rate.",
            )
        ]
    return []


def see(finding: Finding) -> Cause:
    """Return that why and what to do is said by another finding."""
    return Cause(f"Why is told under {finding.title!r}.", "What is told there.")


def check_listening(source_gain: float, bits_per_character: float, suspected: Sequence[Cause]) -> list[Finding]:
    """Find a model whose loss is the same whichever source it reads; `suspected` are the causes that are likely."""
    share = source_gain / bits_per_character
    found = f"The true question saves {percent(max(share, 0))} of the loss against another one "
    found += f"({source_gain:.3f} of {bits_per_character:.3f} bits per character)."
    if share >= LISTENING:
        return well("listening", "It listens", found)
    return [
        Finding(
            check="listening",
            severity="hint" if share >= HARDLY_LISTENING else "problem",
            title="It hardly listens" if share >= HARDLY_LISTENING else "It does not listen",
            found=" ".join([found, *(cause.found for cause in suspected)]),
            what_to_do=" ".join(cause.what_to_do for cause in suspected if cause.what_to_do)
            or "Train longer, and look whether the answers in the data follow from their questions.",
        )
    ]


def check_remembering(trial: Trial) -> list[Finding]:
    """Find a model that reads only the last turn, where there are turns before it."""
    gain = trial.evaluation.history_gain
    if gain is None:
        return []
    found = f"The turns before the last one save {gain:.3f} bits per character of the later replies."
    if gain > HARDLY_LISTENING * trial.evaluation.bits_per_character:
        return well("remembering", "It remembers", found)
    return [
        Finding(
            check="remembering",
            severity="hint",
            title="It does not use the turns before",
            found=found,
            what_to_do="Give it conversations whose later replies depend on earlier turns, and train longer; look "
            "whether --max-source-tokens leaves room for them.",
        )
    ]


def check_replies(trial: Trial, suspected: Sequence[Cause]) -> list[Finding]:
    """Find a bot that always says the same."""
    replies = trial.outcome.replies
    counts = Counter(replies)
    (reply, count), *_ = counts.most_common(1)
    share = count / len(replies)
    found = f"{len(replies):,} different questions got {len(counts):,} different replies; the most frequent one, "
    found += f"{shortened(reply)!r}, {count:,} times ({percent(share)})."
    # Of two or three replies every one is a large share.
    if share <= OFTEN_SAME_REPLY or count < 3:
        return well("same reply", "Replies differ", found)
    examples = shown(f"{times:,} times: {shortened(text)}" for text, times in counts.most_common(3))
    return [same_reply(share, found, suspected, examples)]


def same_reply(share: float, found: str, suspected: Sequence[Cause], examples: tuple[str, ...]) -> Finding:
    """Return the finding that a reply makes up a large share of all."""
    always = share > SAME_REPLY
    return Finding(
        check="same reply",
        severity="problem" if always else "hint",
        title="Every input gets the same answer" if always else "It often says the same",
        found=" ".join([found, *(cause.found for cause in suspected)]),
        what_to_do=" ".join(cause.what_to_do for cause in suspected if cause.what_to_do)
        or "Train longer; in the chat, --temperature 0.7 varies what is said, but does not make it fit better.",
        examples=examples,
    )


def check_copies(trial: Trial) -> list[Finding]:
    """Find a bot that only repeats answers of its training, where the trial knows them."""
    copied = trial.evaluation.copied_replies
    if copied is None:
        return []
    found = f"{copied:.0f}% of the replies stand word for word among the training's answers."
    if copied <= 90:
        return well("copies", "It makes replies of its own", found)
    return [
        Finding(
            check="copies",
            severity="hint",
            title="It only repeats what it learnt",
            found=f"{found} It picks an answer rather than making one.",
            what_to_do="That may be all you want. If not: more and more varied data, --dropout 0.2, and the "
            "checkpoint with the best loss instead of the last.",
        )
    ]


def check_memory(new: float, known: float) -> list[Finding]:
    """Find, by its loss on new exchanges and on known ones, a model that knows its training by heart."""
    found = f"Loss {known:.3f} on what it was trained on, {new:.3f} on what it was not."
    if new - known < 1 or new < 1.5 * known:
        return well("memory", "It does not know by heart alone", found)
    return [
        Finding(
            check="memory",
            severity="hint",
            title="It knows its training by heart",
            found=f"{found} It overfits: on new questions it is sure of wrong words.",
            what_to_do="More data helps most. Then --dropout 0.3, --rdrop-alpha 1, fewer epochs or a smaller --size. "
            "Look at replies too: those of small chatbots go on getting better after the loss has begun to rise.",
        )
    ]


def check_log(log: RunLog) -> list[Finding]:
    """Find in a run's log a training that diverged or ended too early."""
    losses = [line["loss"] for line in log.steps]
    if not losses:
        return []
    lowest = min((loss for loss in losses if math.isfinite(loss)), default=math.nan)
    if not math.isfinite(losses[-1]) or losses[-1] > 1.2 * lowest:
        return [
            Finding(
                check="divergence",
                severity="problem",
                title="The training diverged",
                found=f"Its loss ended at {losses[-1]:.3f}, after {lowest:.3f}.",
                what_to_do="Train anew with half the --learning-rate, more --warmup-steps and --max-grad-norm 1.",
            )
        ]
    if len(log.evaluations) < 2:
        found = f"Training loss {losses[0]:.3f} in the beginning, {losses[-1]:.3f} after {log.num_steps:,} steps."
        return well("training", "The loss fell", found)
    before, last = (line["eval_loss"] for line in log.evaluations[-2:])
    best = min(log.evaluations, key=lambda line: line["eval_loss"])
    found = (
        f"Validation loss {log.evaluations[0]['eval_loss']:.3f} at the first evaluation, {best['eval_loss']:.3f} at "
    )
    found += f"its best (step {best['step']:,}), {last:.3f} at the end (step {log.num_steps:,})."
    if last >= 0.99 * before or best is not log.evaluations[-1]:
        return well("training", "It was trained long enough", found)
    rates = [line["learning_rate"] for line in log.steps]
    ended = rates[-1] < 0.01 * max(rates)
    return [
        Finding(
            check="training",
            severity="hint",
            title="The loss was still falling at the end",
            found=found + (" By then the schedule had brought the rate down to nothing." if ended else ""),
            what_to_do="Train anew for longer (--num-train-epochs or --max-steps): going on with a rate of nothing "
            "changes nothing."
            if ended
            else "Train longer: more --num-train-epochs or --max-steps.",
        )
    ]


def check_vocabulary_size(vocab_size: int, num_tokens: int) -> list[Finding]:
    """Find a vocabulary whose tokens are too rare to be learnt: `num_tokens` are all that the replies have."""
    ratio = num_tokens / vocab_size
    found = f"{vocab_size:,} tokens, of which each stands about {ratio:.1f} times in the replies."
    if ratio >= 5:
        return well("vocabulary size", "The vocabulary fits the data", found)
    return [
        Finding(
            check="vocabulary size",
            severity="hint",
            title="The vocabulary is large for the data",
            found=f"{found} What is seen so seldom is hardly learnt.",
            what_to_do=f"Train anew with --vocab-size {max(1000, round(num_tokens / 10, -3))}.",
        )
    ]


def check_parts(model: Any, tokenizer: Any, missing: Collection[str] = ()) -> list[Finding]:
    """Return the findings of every check that needs no conversations; `missing` weights were not in the files."""
    return [
        *check_weights(model, missing),
        *check_embeddings(model),
        *check_vocabulary(model, tokenizer),
        *check_template(tokenizer),
    ]


def check_behaviour(
    model: Any,
    tokenizer: Any,
    exchanges: EncodedExchanges,
    *,
    max_exchanges: int,
    log: RunLog | None = None,
    known: EncodedExchanges | None = None,
    training: Sequence[tuple[str, str]] | None = None,
) -> list[Finding]:
    """
    Return what shows when the model is tried on exchanges, at most `max_exchanges` with different questions.

    `known` are some that it was trained on, and `training` all questions and answers that it was trained on.
    """
    tried = different_questions(exchanges, max_exchanges)
    texts = [text for history in tried.histories for text in (message["content"] for message in history)]
    findings = [
        *check_round_trip(tokenizer, [*texts, *tried.replies]),
        *check_generation(model, exchanges.target_lengths),
        *check_future(model, tried),
        *check_padding(model, tried),
    ]
    if len(tried) < FEW_QUESTIONS:
        return [
            *findings,
            Finding(
                check="trial",
                severity="hint",
                title="Too few questions to try it on",
                found=f"Only {len(tried)} different ones: whether it listens and what it says cannot be judged.",
                what_to_do="Give more conversations with --data.",
            ),
        ]
    answers = None if training is None else [answer for _, answer in training]
    trial = try_out(model, tokenizer, tried, training_replies=answers)
    most_frequent = None
    if answers:
        most_frequent = Counter(answers).most_common(1)[0][1] / len(answers)
    suspected = causes(model, tried, log, most_frequent)
    findings += check_knowledge(trial, model.config.vocab_size)
    figures = trial.evaluation
    (listening,) = check_listening(figures.source_gain, figures.bits_per_character, suspected)
    findings.append(listening)
    if listening.severity != "good":
        suspected = [see(listening)]
    findings += check_remembering(trial)
    findings += check_replies(trial, suspected)
    findings += check_copies(trial)
    if training:
        findings += check_baselines(compare(tried, trial.outcome, training), len(trial.outcome.replies))
    if known is not None and len(known):
        findings += check_memory(trial.evaluation.loss, loss_on(model, known))
    return findings
