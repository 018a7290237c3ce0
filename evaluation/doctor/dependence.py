"""What predictions depend on: the source, but neither the future nor the padding."""

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import nn

from chatformer.chat.engines import TransformersEngine
from chatformer.data.exchanges import EncodedExchanges

from .findings import Above, Check, Finding, percent

TRIED_PARTS = 8
"""Exchanges that these checks look at."""

ROUNDING = 1e-3
"""Relative change of the logits that rounding may cause if an input changed that should not matter."""

NOTICEABLE = 0.01
"""Relative change under which two tensors count as the same if an input changed that should matter."""

COLLAPSED_NORM = 0.1
"""Mean size of a norm's weights, which begin at 1, under which hardly anything passes it."""


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


def _change(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, relative to the spread of the logits."""
    return float((one - other).abs().max() / one.std().clamp(min=1e-9))


FUTURE = Check(
    name="future",
    bad=Above(problem=ROUNDING),
    good="The future cannot be seen",
    title="The decoder sees the future",
    what_to_do="Fix the mask of the decoder's self-attention, or load with attn_implementation='eager' to see "
    "whether an attention function of your own is at fault; then train again.",
)


@torch.inference_mode()
def check_future(model: Any, exchanges: EncodedExchanges) -> list[Finding]:
    """Whether the decoder sees the tokens that it has to predict."""
    change = 0.0
    for index in range(min(TRIED_PARTS, len(exchanges))):
        source, decoder_ids = _row(exchanges.source(index)), _decoder_ids(model, exchanges.target(index))
        mask = torch.ones_like(source)
        logits = _logits(model, source, mask, decoder_ids)
        middle = (decoder_ids.shape[1] + 1) // 2
        with_other_end = decoder_ids.clone()
        with_other_end[:, middle:] = (with_other_end[:, middle:] + 1) % model.config.vocab_size
        others = _logits(model, source, mask, with_other_end)
        change = max(change, _change(logits[:, :middle], others[:, :middle]))
    return FUTURE.findings(
        change,
        f"Later words in a reply change the predictions before them (by {change:.2g} of their spread). In "
        "training the model reads off the answer instead of learning it: the loss falls wonderfully, and the "
        "replies are nonsense.",
        found_if_good="Later words in a reply change nothing before them.",
    )


PADDING = Check(
    name="padding",
    bad=Above(problem=0),
    good="Padding is harmless",
    title="Padding changes the replies",
    what_to_do="Fix the attention mask or the positions; then train again, because training uses padding, too.",
)
"""Measures in how many places padding changes predictions."""

# Chatformer itself never pads sources on the left.
LEFT_PADDING = dataclasses.replace(PADDING, bad=Above(hint=0), what_to_do="Pad on the right only.")

PLACES = {"right": "on the right", "left": "on the left", "batch": "in a batch with longer ones"}


@torch.inference_mode()
def check_padding(model: Any, exchanges: EncodedExchanges) -> list[Finding]:
    """Whether predictions depend on the padding of a source."""
    indices = range(min(TRIED_PARTS, len(exchanges)))
    changes = {"right": 0.0, "left": 0.0}
    for index in indices:
        source, decoder_ids = _row(exchanges.source(index)), _decoder_ids(model, exchanges.target(index))
        mask = torch.ones_like(source)
        logits_alone = _logits(model, source, mask, decoder_ids)
        for side, pads in (("right", (0, 5)), ("left", (5, 0))):
            padded_source = nn.functional.pad(source, pads, value=model.config.pad_token_id)
            logits = _logits(model, padded_source, nn.functional.pad(mask, pads), decoder_ids)
            changes[side] = max(changes[side], _change(logits_alone, logits))
    changes["batch"] = _change_in_batch(TransformersEngine(model), exchanges, list(indices))
    harmful_places = [place for place, change in changes.items() if change > ROUNDING]
    check = LEFT_PADDING if harmful_places == ["left"] else PADDING
    return check.findings(
        len(harmful_places),
        "Predictions change if a source is padded "
        + ", ".join(f"{PLACES[place]} (by {changes[place]:.2g})" for place in harmful_places)
        + ": the same question gets other answers in other batches.",
        found_if_good="Predictions are the same with padding on either side, alone and in a batch.",
    )


def _change_in_batch(engine: TransformersEngine, exchanges: EncodedExchanges, indices: list[int]) -> float:
    """The largest relative difference between the scores of targets alone and in a batch."""
    sources, targets = ([get(index) for index in indices] for get in (exchanges.source, exchanges.target))
    nats_alone = [engine.score([source], [target])[0] for source, target in zip(sources, targets, strict=True)]
    nats_in_batch = engine.score(sources, targets)
    return max(abs(one - other) / max(one, 1) for one, other in zip(nats_alone, nats_in_batch, strict=True))


@torch.inference_mode()
def blocked_part(model: Any, exchanges: EncodedExchanges) -> str | None:
    """What is wrong with the part of the model at which the source is lost; None if it is not lost."""
    encoder = model.get_encoder()
    norms = [module for module in encoder.modules() if isinstance(module, nn.LayerNorm)]
    scale = float(norms[-1].weight.abs().mean()) if norms else 1.0
    if scale < COLLAPSED_NORM:
        return (
            f"The encoder's last norm has shrunk to {scale:.2g}, from 1 at the beginning: hardly anything of a "
            "question reaches the decoder. More training does not repair that."
        )
    encodings = []
    for index in range(min(TRIED_PARTS, len(exchanges))):
        source = _row(exchanges.source(index)).to(model.device)
        encodings.append(encoder(input_ids=source, attention_mask=torch.ones_like(source))[0])
    means_ND = torch.cat([states.mean(1) for states in encodings])
    spread = float(means_ND.std(0).norm() / means_ND.norm(dim=1).mean().clamp(min=1e-9))
    if spread < NOTICEABLE:
        return f"The encoder gives the same for every question: its outputs differ by {percent(spread)} of their size."
    decoder_ids = _decoder_ids(model, exchanges.target(0)).to(model.device)
    logits = [
        model(encoder_outputs=(states,), decoder_input_ids=decoder_ids, use_cache=False).logits.float()
        for states in encodings
    ]
    effect = max(_change(logits[0], other) for other in logits[1:])
    if effect < NOTICEABLE:
        return (
            "The encoder distinguishes questions, but the decoder does not read them: nothing passes the "
            f"cross-attention, and another question changes the predictions by {percent(effect)} of their spread."
        )
    return None
