"""What is wrong with a model before it says a word: its weights, its tokenizer, its settings of generate()."""

import sys
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch

from .findings import Above, Check, Finding, percent, shortened, well


def check_parts(model: Any, tokenizer: Any, missing: Collection[str] = ()) -> list[Finding]:
    """The findings of all checks that need no conversations; `missing` weights were not in the files."""
    return [
        *check_weights(model, missing),
        *check_embeddings(model),
        *check_vocabulary(model, tokenizer),
        *check_template(tokenizer),
    ]


MISSING_WEIGHTS = Check(
    name="missing weights",
    bad=Above(problem=0),
    title="Weights are missing",
    what_to_do="Copy or download the folder again, all files from one training.",
)

FINITE_WEIGHTS = Check(
    name="finite weights",
    bad=Above(problem=0),
    title="Weights are not numbers",
    what_to_do="Take a checkpoint from before. Train with half the --learning-rate, more --warmup-steps, "
    "--max-grad-norm 1 and --mixed-precision no.",
)

CONSTANT_WEIGHTS = Check(
    name="constant weights",
    bad=Above(problem=0),
    title="Weights are all the same",
    what_to_do="Look at where these weights were made or converted, and train or convert anew.",
)


def check_weights(model: Any, missing: Collection[str] = ()) -> list[Finding]:
    """Whether weights are not finite, are all the same, or were not in the files."""
    weights = dict(model.named_parameters())
    broken = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    # Norms and biases begin with one number, and may keep it; a matrix of one number tells nothing apart.
    constant = [
        name for name, weight in weights.items() if weight.dim() > 1 and name not in broken and not weight.std() > 0
    ]
    findings = [
        *MISSING_WEIGHTS.findings(
            len(missing),
            f"{len(missing)} weights of the model are not in its files and were drawn at random.",
            examples=sorted(missing),
        ),
        *FINITE_WEIGHTS.findings(
            len(broken),
            f"{len(broken)} of {len(weights)} have entries that are infinite or NaN: the training diverged, or the "
            "file is damaged.",
            examples=broken,
        ),
        *CONSTANT_WEIGHTS.findings(
            len(constant),
            f"{len(constant)} of {len(weights)} are matrices of one number: whatever goes in, the same comes out.",
            examples=constant,
        ),
    ]
    count = sum(weight.numel() for weight in weights.values())
    found = f"{count:,} numbers, all finite, and no matrix is constant."
    return findings or well("weights", "The weights are numbers", found)


TIED_EMBEDDINGS = Check(
    name="tied embeddings",
    bad=Above(problem=0),
    good="The embeddings are tied",
    title="The embeddings are not tied",
    what_to_do="Call model.tie_weights() after replacing an embedding, and train on from there.",
)


def check_embeddings(model: Any) -> list[Finding]:
    """Whether embeddings that should be one matrix no longer are."""
    if not model.config.tie_word_embeddings:
        return []
    weights = dict(model.named_parameters(remove_duplicate=False))
    tied = {name: source for name, source in (model._tied_weights_keys or {}).items() if {name, source} <= set(weights)}
    apart = [name for name, source in tied.items() if weights[name] is not weights[source]]
    return TIED_EMBEDDINGS.findings(
        len(apart),
        "The configuration says that source, target and output share one matrix, but they do not: when the model "
        "is saved, one of them is kept, and the others are lost.",
        found_if_good="Source, target and output share one matrix, as the configuration says.",
        examples=apart,
    )


VOCABULARY = Check(
    name="vocabulary",
    bad=Above(problem=0),
    good="The tokenizer fits the model",
    title="The tokenizer is not the model's",
    what_to_do="Put the tokenizer of the model's own training into its folder. Tokens that were added later need "
    "model.resize_token_embeddings(len(tokenizer)) and further training.",
)


def check_vocabulary(model: Any, tokenizer: Any) -> list[Finding]:
    """Whether the tokenizer is the model's."""
    rows = model.get_input_embeddings().weight.shape[0]
    differing = [
        f"{name}: {ours} in the tokenizer, {theirs} in the model"
        for name in ("pad_token_id", "eos_token_id")
        if (ours := getattr(tokenizer, name)) != (theirs := getattr(model.config, name))
        and not (isinstance(theirs, list) and ours in theirs)
    ]
    found = f"The tokenizer has {len(tokenizer):,} tokens, the model {rows:,} rows for them"
    return VOCABULARY.findings(
        len(tokenizer) > rows or bool(differing),
        found + (", and control tokens differ." if differing else "."),
        found_if_good=f"{len(tokenizer):,} tokens, {rows:,} rows.",
        examples=differing,
    )


CHAT_TEMPLATE = Check(
    name="chat template",
    bad=Above(problem=0),
    good="The chat template is there",
    title="The chat template is missing",
    why="The tokenizer does not say how a conversation becomes a source: whoever talks to the model guesses, and a "
    "model that reads what it was not trained on talks nonsense.",
    what_to_do="Copy chat_template.jinja from the run's folder, or publish the tokenizer anew with it.",
)


def check_template(tokenizer: Any) -> list[Finding]:
    """Whether the tokenizer knows how a conversation is written."""
    return CHAT_TEMPLATE.findings(tokenizer.chat_template is None)


GENERATION_END = Check(
    name="generation end",
    bad=Above(problem=0),
    title="Replies never end",
    why="generation_config.json names no eos_token_id.",
    what_to_do='Put "eos_token_id" into it, the id of the end token in the tokenizer.',
)

GENERATION_LENGTH = Check(
    name="generation length",
    bad=Above(hint=0.0, problem=0.05),
    title="Replies may break off",
)


def check_generation(model: Any, target_lengths: np.ndarray) -> list[Finding]:
    """Whether replies end, and do not break off before."""
    settings = model.generation_config
    # The default of transformers is 20 tokens.
    limit = settings.max_new_tokens or settings.max_length or 20
    cut = float((target_lengths > limit).mean()) if len(target_lengths) else 0.0
    findings = [
        *GENERATION_END.findings(settings.eos_token_id is None),
        *GENERATION_LENGTH.findings(
            # A missing limit is worth a hint even if it cuts no reference.
            cut if settings.max_new_tokens is not None else max(cut, sys.float_info.min),
            f"In generation_config.json max_new_tokens is {settings.max_new_tokens}, so that a reply has {limit} "
            f"tokens at most; {percent(cut)} of the reference replies are longer.",
            what_to_do=f'Put "max_new_tokens": {max(64, int(target_lengths.max(initial=0)))} into it.',
        ),
    ]
    found = f"Replies end at the end token, or after {limit} tokens."
    return findings or well("generation", "Replies can end", found)


ROUND_TRIP = Check(
    name="round trip",
    bad=Above(hint=0.0, problem=0.05),
    good="No text is lost",
    title="The tokenizer loses text",
    why="The model cannot say what its tokenizer cannot write.",
    what_to_do="Train the tokenizer on text of this kind; `chatformer train` makes one that loses nothing.",
)


def check_round_trip(tokenizer: Any, texts: Iterable[str]) -> list[Finding]:
    """Whether texts are still the same after encoding and decoding."""
    texts = list(texts)
    lost = []
    for text in texts:
        ids = tokenizer(text, split_special_tokens=True)["input_ids"]
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        if decoded != text:
            lost.append(f"{shortened(text)} became {shortened(decoded)}")
    return ROUND_TRIP.findings(
        len(lost) / max(1, len(texts)),
        f"{len(lost):,} of {len(texts):,} texts come back as other ones.",
        found_if_good=f"{len(texts):,} texts come back from the tokenizer as they went in.",
        examples=lost,
    )
