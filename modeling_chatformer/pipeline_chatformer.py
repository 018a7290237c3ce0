"""`pipeline("seq2seq-chat", model=...)`: from a conversation to its next turn."""

from collections.abc import Mapping, Sequence, Sized
from functools import cached_property
from typing import Any

import torch
from transformers import LogitsProcessorList, Pipeline
from transformers.utils import logging

from .conversation import encode_conversation, max_source_tokens
from .one_script import one_script
from .pictures import PICTURE, can_draw, image_of_text
from .reading import reads_history, reads_system

logger = logging.get_logger(__name__)


class Seq2SeqChatPipeline(Pipeline):
    """
    The next turn of a conversation.

    Takes a text, a conversation (a list of `{"role": ..., "content": ...}` that ends with a user's turn), or many of
    either: in a list, a generator, a dataset, `KeyDataset(dataset, column)`. Gives for each
    `{"generated_text": ...}`: the reply to a text, or the conversation with the reply added. With
    `num_return_sequences` above 1, it gives a list of them for each. A reply with pictures has them as PIL images in
    `images`; without Pillow they are only text.

    `batch_size` replies are computed at once, and are those of one by one. Further keywords, here or where the pipeline
    is made, go to `generate()`, such as `num_beams` or `temperature`, except for these:

    return_full_text: False for the reply alone, to a conversation too.
    return_tensors: True for `{"generated_token_ids": ...}` instead.
    clean_up_tokenization_spaces, skip_special_tokens: as the tokenizer's `decode` has them.
    stop_sequence: a text, or several, which end the reply once generated.
    """

    model: Any
    tokenizer: Any

    _load_tokenizer = True  # type: ignore[assignment]
    _load_processor = False  # type: ignore[assignment]
    _load_image_processor = False  # type: ignore[assignment]
    _load_feature_extractor = False  # type: ignore[assignment]

    def __call__(self, inputs: Any, **options: Any) -> Any:  # type: ignore[override]
        # The base class takes nothing but a list for many inputs, and looks at the first of it.
        if isinstance(inputs, Sequence) and not isinstance(inputs, str):
            inputs = list(inputs)
        if isinstance(inputs, Sized) and not isinstance(inputs, str | Mapping) and not len(inputs):
            return []
        return super().__call__(inputs, **options)

    def _sanitize_parameters(
        self,
        return_full_text: bool | None = None,
        return_tensors: bool | None = None,
        return_text: bool | None = None,
        clean_up_tokenization_spaces: bool | None = None,
        skip_special_tokens: bool | None = None,
        stop_sequence: str | list[str] | None = None,
        **generation: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if return_tensors and (return_text or return_full_text is not None):
            raise ValueError("return_tensors excludes return_text and return_full_text: give one of them.")
        if stop_sequence is not None:
            stops = [stop_sequence] if isinstance(stop_sequence, str) else stop_sequence
            generation |= {"stop_strings": stops, "tokenizer": self.tokenizer}
        options = {
            "return_full_text": return_full_text,
            "return_tensors": return_tensors,
            "clean_up_tokenization_spaces": clean_up_tokenization_spaces,
            "skip_special_tokens": skip_special_tokens,
        }
        return {}, generation, {name: value for name, value in options.items() if value is not None}

    def preprocess(self, conversation: Any) -> dict[str, Any]:  # type: ignore[override]
        # The base class wraps a list of messages in an object with the attribute `messages`.
        conversation = getattr(conversation, "messages", conversation)
        if not isinstance(conversation, str | list | tuple):
            raise ValueError(
                "An input must be a text, or a conversation, a list of messages with a role and a content, "
                f"but it is {type(conversation).__name__}."
            )
        messages = [{"role": "user", "content": conversation}] if isinstance(conversation, str) else list(conversation)
        last = messages[-1] if messages else None
        if not isinstance(last, Mapping) or last.get("role") != "user":
            raise ValueError("A conversation to be continued must end with a message of the role 'user'.")
        self._warn_of_unread({message["role"] for message in messages[:-1]})
        ids = encode_conversation(self.tokenizer, messages, max_source_tokens(self.tokenizer))
        input_ids = torch.tensor([ids])
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "conversation": conversation}

    def _warn_of_unread(self, roles: set[str]) -> None:
        """Warn, once for each tokenizer, of messages before the last that its chat template leaves out."""
        if "system" in roles and not reads_system(self.tokenizer):
            logger.warning_once("The model was trained without system messages and does not read them.")
        if roles - {"system"} and not reads_history(self.tokenizer):
            logger.warning_once("The model was trained on single questions and does not read what was said before.")

    @cached_property
    def rules(self) -> LogitsProcessorList:
        """What every reply obeys."""
        return one_script(self.model, self.tokenizer)

    def _forward(self, model_inputs: Any, **generation: Any) -> Any:  # type: ignore[override]
        input_ids = model_inputs["input_ids"]
        rules = LogitsProcessorList([*self.rules, *(generation.pop("logits_processor", None) or [])])
        generated = self.model.generate(
            input_ids=input_ids,
            attention_mask=model_inputs["attention_mask"],
            logits_processor=rules,
            **generation,
        )
        # With return_dict_in_generate it gives more than the ids.
        ids = getattr(generated, "sequences", generated)
        # The base class takes a batch apart by the first axis.
        ids = ids.reshape(len(input_ids), -1, ids.shape[-1])
        return {"ids": ids, "conversation": model_inputs["conversation"]}

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: Any,
        return_full_text: bool = True,
        return_tensors: bool = False,
        clean_up_tokenization_spaces: bool | None = None,
        skip_special_tokens: bool = True,
    ) -> dict[str, Any] | list[dict[str, Any]]:
        conversation = model_outputs["conversation"]
        (sequences,) = model_outputs["ids"].tolist()
        records: list[dict[str, Any]] = []
        for ids in sequences:
            # In a batch, the longest reply pads the others.
            while len(ids) > 1 and ids[-1] == self.tokenizer.pad_token_id:
                ids.pop()
            if return_tensors:
                records.append({"generated_token_ids": ids})
                continue
            reply = self.tokenizer.decode(
                ids,
                skip_special_tokens=skip_special_tokens,
                clean_up_tokenization_spaces=clean_up_tokenization_spaces,
            )
            if return_full_text and not isinstance(conversation, str):
                records.append({"generated_text": [*conversation, {"role": "assistant", "content": reply}]})
            else:
                records.append({"generated_text": reply})
            pictures = PICTURE.findall(reply)
            if pictures and can_draw():
                records[-1]["images"] = [image_of_text(picture) for picture in pictures]
            elif pictures:
                logger.warning_once("Pictures stay text without Pillow: pip install pillow.")
        return records if len(records) > 1 else records[0]
