"""`pipeline("seq2seq-chat", model=...)`: from a conversation to its next turn."""

from typing import Any

import torch
from transformers import Pipeline

from .conversation import encode_conversation, max_source_tokens


class Seq2SeqChatPipeline(Pipeline):
    """
    The next turn of a conversation.

    Takes a text, or a list of `{"role": ..., "content": ...}` that ends with a user's turn, or a list of such lists.
    Returns, for each, `{"generated_text": ...}`: the reply to a text, or the conversation with the reply added.
    Further keywords, such as `num_beams` or `temperature`, go to `generate()`.
    """

    model: Any
    tokenizer: Any

    _load_tokenizer = True  # type: ignore[assignment]
    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]

    def __call__(self, conversation: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if isinstance(conversation, tuple):
            conversation = list(conversation)
        is_many = isinstance(conversation, list) and bool(conversation) and not isinstance(conversation[0], dict)
        if not is_many:
            # The base class takes a list for a batch, and one conversation is a list too.
            return super().__call__([conversation], **kwargs)[0]
        return super().__call__(conversation, **kwargs)

    def _sanitize_parameters(self, **generation: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        return {}, generation, {}

    def preprocess(self, conversation: Any) -> dict[str, Any]:  # type: ignore[override]
        is_text = isinstance(conversation, str)
        # The base class wraps a list of messages in an object with the attribute `messages`.
        conversation = getattr(conversation, "messages", conversation)
        messages = [{"role": "user", "content": conversation}] if is_text else list(conversation)
        if not messages or messages[-1].get("role") != "user":
            raise ValueError("A conversation to be continued must end with a message of the role 'user'.")
        ids = encode_conversation(self.tokenizer, messages, max_source_tokens(self.tokenizer))
        return {"input_ids": torch.tensor([ids]), "conversation": conversation}

    def _forward(self, model_inputs: Any, **generation: Any) -> Any:  # type: ignore[override]
        conversation = model_inputs.pop("conversation")
        input_ids = model_inputs["input_ids"]
        generated = self.model.generate(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **generation)
        return {"ids": generated[0], "conversation": conversation}

    def postprocess(self, model_outputs: Any) -> dict[str, Any]:  # type: ignore[override]
        reply = self.tokenizer.decode(model_outputs["ids"], skip_special_tokens=True)
        conversation = model_outputs["conversation"]
        if isinstance(conversation, str):
            return {"generated_text": reply}
        return {"generated_text": [*conversation, {"role": "assistant", "content": reply}]}
