"""From settings to a picture of what a model does with a text."""

from typing import TYPE_CHECKING, Any

from chatformer.chat.chatbot import Chatbot
from chatformer.chat.engines import TransformersEngine
from chatformer.chat.inside import AttentionName, beam_tree, look_inside, tokens_of
from chatformer.configuration.declaring import SettingsError
from chatformer.configuration.pictures import PlotSettings
from chatformer.configuration.replies import ReplySettings
from chatformer.conversation import encode_conversation, turn

from .paper import masks
from .replies import attention, beams, steps, tokens

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ATTENTIONS = {
    "cross": "From the reply to the source",
    "encoder": "Within the source",
    "decoder": "Within the reply",
}


def picture_of_text(settings: PlotSettings) -> "Figure":
    """A picture of what a model does with a text."""
    chatbot = Chatbot.from_pretrained(str(settings.model), revision=settings.revision, device=settings.device)
    chatbot.folder.show_commit()
    messages = [turn("user", settings.text)]
    source_ids = encode_conversation(chatbot.tokenizer, messages, chatbot.max_source_tokens)
    if settings.picture == "tokens":
        return tokens(tokens_of(chatbot.tokenizer, source_ids), title="Tokens and their ids")
    model: Any = model_of(chatbot)
    if settings.picture == "beams":
        search = ReplySettings(num_beams=settings.num_beams, max_new_tokens=settings.max_new_tokens).search()
        tree = beam_tree(model, chatbot.tokenizer, source_ids, search)
        return beams(tree, title=f"A search with {settings.num_beams} beams")
    answer = chatbot.answer(messages, ReplySettings(max_new_tokens=settings.max_new_tokens))
    inside = look_inside(
        model, chatbot.tokenizer, answer.source_ids, answer.reply_ids, num_likeliest=settings.num_likeliest
    )
    if settings.picture == "steps":
        return steps(inside.steps)
    needed: AttentionName = "decoder" if settings.picture == "mask" else settings.attention
    if needed not in inside.attentions:
        if settings.picture == "mask":
            problem = "which has no masks to show: it reads token after token."
        elif inside.attentions:
            problem = "whose only attention is that of the decoder to the encoder: give --attention cross."
        else:
            problem = "without attention."
        raise SettingsError(f"{settings.model} is a recurrent model, {problem}")
    if settings.picture == "mask":
        return masks(inside.source, inside.attentions["decoder"].keys, model.config)
    weights = inside.attentions[settings.attention]
    num_layers, num_heads = weights.weights_LHQK.shape[:2]
    for name, value, most in (("--layer", settings.layer, num_layers), ("--head", settings.head, num_heads)):
        if value is not None and value > most:
            raise SettingsError(f"{name} must be at most {most}, as many as the model has, but it is {value}.")
    if not settings.special_tokens:
        weights = weights.without_special()
    return attention(
        weights, title=ATTENTIONS[settings.attention], layer=settings.layer or num_layers, head=settings.head
    )


def model_of(chatbot: Chatbot) -> Any:
    """The model that a chatbot on transformers runs."""
    assert isinstance(chatbot.engine, TransformersEngine)
    return chatbot.engine.model
