"""The view that the reader chose, of the reply that was given last."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from plotly.graph_objects import Figure

from chatformer.chat.chatbot import Answer, Chatbot, Replier
from chatformer.chat.engines import TransformersEngine
from chatformer.chat.inside import AttentionName, beam_tree, look_inside
from chatformer.configuration import ChatformerConfig
from chatformer.configuration.replies import ReplySettings
from chatformer.embedding import sinusoids

from . import figures

VIEWS = ("tokens", "attention", "steps", "beams", "masks", "positions", "training")
MAX_POSITIONS = 100


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the reader wants to see."""

    view: str
    attention: AttentionName
    layer: int
    head: int
    with_special: bool
    beams: ReplySettings
    """The search whose tree is drawn."""


def drawn(
    chatbot: Replier, answer: Answer | None, choice: Choice, log: Sequence[Mapping[str, Any]], words: Mapping[str, str]
) -> Figure | str:
    """The chosen view, or a sentence that says why there is none."""
    if choice.view == "training":
        return figures.training(log, words) if any("loss" in line for line in log) else words["no_log"]
    model = model_of(chatbot)
    if model is None:
        return words["no_inside"]
    assert isinstance(chatbot, Chatbot)
    if choice.view == "positions" and not isinstance(model.config, ChatformerConfig):
        return words["no_positions"]
    if choice.view == "positions":
        return figures.positions(sinusoids(MAX_POSITIONS, model.config.d_model).numpy(), words)
    if answer is None:
        return words["nothing"]
    if choice.view == "beams":
        tree = beam_tree(model, chatbot.tokenizer, answer.source_ids, choice.beams.search())
        return figures.beams(tree, words)
    inside = look_inside(model, chatbot.tokenizer, answer.source_ids, answer.reply_ids)
    if choice.view == "tokens":
        return figures.tokens(inside.source, inside.reply, words)
    if choice.view == "steps":
        return figures.steps(inside.steps, words)
    if choice.view == "masks":
        decoder = inside.attentions.get("decoder")
        if decoder is None:
            return words["no_attention"]
        return figures.masks(inside.source, decoder.keys, words, model.config)
    weights = inside.attentions.get(choice.attention)
    if weights is None:
        return words["no_attention"]
    shown = weights if choice.with_special else weights.without_special()
    # Of a reply that is nothing but its end, nothing would be left.
    return figures.attention(
        shown if shown.queries and shown.keys else weights, words, layer=choice.layer, head=choice.head
    )


def num_layers_and_heads(chatbot: Replier, attention: AttentionName) -> tuple[int, int]:
    """How many layers have an attention, and how many heads it has in each; one of one in a recurrent model."""
    config = getattr(model_of(chatbot), "config", None)
    num_layers = getattr(config, "encoder_layers" if attention == "encoder" else "decoder_layers", 1)
    return num_layers, getattr(config, "num_attention_heads", 1) * getattr(config, "num_members", 1)


def model_of(chatbot: Replier) -> Any:
    """The model of transformers that a chatbot runs, or None if something else replies."""
    if isinstance(chatbot, Chatbot) and isinstance(chatbot.engine, TransformersEngine):
        return chatbot.engine.model
    return None
