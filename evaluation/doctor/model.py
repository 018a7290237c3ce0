"""What is wrong with the parts of a model: its weights, its tokenizer and its generation settings."""

import sys
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch

from chatformer.evaluation.shortening import shortened
from chatformer.storage.explaining import counted

from .findings import Above, Check, Finding, percent, well


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
    what_to_do="Copy or download the folder again, with all files from the same training.",
)

FINITE_WEIGHTS = Check(
    name="finite weights",
    bad=Above(problem=0),
    title="Weights are not numbers",
    what_to_do="Use an earlier checkpoint. Train with half the --learning-rate, more --warmup-steps, "
    "--max-grad-norm 1 and --mixed-precision no.",
)

CONSTANT_WEIGHTS = Check(
    name="constant weights",
    bad=Above(problem=0),
    title="Weights are all the same",
    what_to_do="Check how these weights were made or converted, and train or convert again.",
)


def check_weights(model: Any, missing: Collection[str] = ()) -> list[Finding]:
    """Whether weights are not finite, are all the same, or were not in the files."""
    weights = dict(model.named_parameters())
    not_finite = [name for name, weight in weights.items() if not torch.isfinite(weight).all()]
    # Norms and biases begin with one number, and may keep it; a matrix of one number distinguishes nothing.
    constant_names = [
        name for name, weight in weights.items() if weight.dim() > 1 and name not in not_finite and not weight.std() > 0
    ]
    findings = [
        *MISSING_WEIGHTS.findings(
            len(missing),
            f"Not in the model's files, and so random: {counted(len(missing), 'weight')}.",
            examples=sorted(missing),
        ),
        *FINITE_WEIGHTS.findings(
            len(not_finite),
            f"{len(not_finite)} of {len(weights)} have entries that are infinite or NaN: the training diverged, or the "
            "file is damaged.",
            examples=not_finite,
        ),
        *CONSTANT_WEIGHTS.findings(
            len(constant_names),
            f"{len(constant_names)} of {len(weights)} are matrices of one number: every input gives the same output.",
            examples=constant_names,
        ),
    ]
    count = sum(weight.numel() for weight in weights.values())
    statement = f"{count:,} numbers, all finite, and no matrix is constant."
    return findings or well("weights", "The weights are numbers", statement)


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
    sources = {
        name: source for name, source in (model._tied_weights_keys or {}).items() if {name, source} <= set(weights)
    }
    untied = [name for name, source in sources.items() if weights[name] is not weights[source]]
    return TIED_EMBEDDINGS.findings(
        len(untied),
        "The configuration says that source, target and output share one matrix, but they do not: saving the model "
        "keeps one of them, and loses the others.",
        found_if_good="Source, target and output share one matrix, as the configuration says.",
        examples=untied,
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
    differences = [
        f"{name}: {ours} in the tokenizer, {theirs} in the model"
        for name in ("pad_token_id", "eos_token_id")
        if (ours := getattr(tokenizer, name)) != (theirs := getattr(model.config, name))
        and not (isinstance(theirs, list) and ours in theirs)
    ]
    statement = f"The tokenizer has {len(tokenizer):,} tokens, the model {rows:,} rows for them"
    return VOCABULARY.findings(
        len(tokenizer) > rows or bool(differences),
        statement + (", and control tokens differ." if differences else "."),
        found_if_good=f"{len(tokenizer):,} tokens, {rows:,} rows.",
        examples=differences,
    )


CHAT_TEMPLATE = Check(
    name="chat template",
    bad=Above(problem=0),
    good="The chat template is there",
    title="The chat template is missing",
    why="The tokenizer does not say how a conversation becomes a source: every program has to guess, and after a wrong "
    "guess the model talks nonsense.",
    what_to_do="Copy chat_template.jinja from the run's folder, or publish the tokenizer again with it.",
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
    title="Replies may be cut off",
)


def check_generation(model: Any, target_lengths: np.ndarray) -> list[Finding]:
    """Whether replies end, and are not cut off before."""
    settings = model.generation_config
    # The default of transformers is 20 tokens.
    limit = settings.max_new_tokens or settings.max_length or 20
    cut = float((target_lengths > limit).mean()) if len(target_lengths) else 0.0
    findings = [
        *GENERATION_END.findings(settings.eos_token_id is None),
        *GENERATION_LENGTH.findings(
            # A missing limit is worth a hint even if the default cuts off no reference.
            cut if settings.max_new_tokens is not None else max(cut, sys.float_info.min),
            f"In generation_config.json max_new_tokens is {settings.max_new_tokens}, so that a reply has {limit} "
            f"tokens at most; {percent(cut)} of the reference replies are longer.",
            what_to_do=f'Put "max_new_tokens": {max(64, int(target_lengths.max(initial=0)))} into it.',
        ),
    ]
    statement = f"Replies end at the end token, or after {limit} tokens."
    return findings or well("generation", "Replies can end", statement)


ROUND_TRIP = Check(
    name="round trip",
    bad=Above(hint=0.0, problem=0.05),
    good="No text is lost",
    title="The tokenizer loses text",
    why="The model cannot say what its tokenizer cannot write.",
    what_to_do="Train the tokenizer on text of this kind; `chatformer train` makes one that loses nothing.",
)


def check_round_trip(tokenizer: Any, texts: Iterable[str]) -> list[Finding]:
    """Whether texts are the same after encoding and decoding."""
    texts = list(texts)
    lost_texts = []
    for text in texts:
        ids = tokenizer(text, split_special_tokens=True)["input_ids"]
        decoded = tokenizer.decode(ids, skip_special_tokens=True)
        if decoded != text:
            lost_texts.append(f"{shortened(text)} became {shortened(decoded)}")
    return ROUND_TRIP.findings(
        len(lost_texts) / max(1, len(texts)),
        f"{len(lost_texts):,} of {len(texts):,} texts are different after encoding and decoding.",
        found_if_good=f"{len(texts):,} texts are the same after encoding and decoding.",
        examples=lost_texts,
    )
