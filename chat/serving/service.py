"""A chatbot behind the protocol: from a request to its answer."""

import asyncio
import dataclasses
import time
import uuid
from collections.abc import AsyncIterator, Collection
from typing import Any

from starlette.types import Scope

from chatformer.chat.chatbot import Chatbot
from chatformer.chat.playing import can_play
from chatformer.configuration.replies import ReplySettings, ServeSettings
from chatformer.conversation import NotText, encode_conversation, turn
from chatformer.pictures import can_draw

from .batches import Batches, QueueFull
from .completions import Completion
from .errors import ApiError, internal_error
from .illustrating import message_of
from .metrics import Metrics
from .protocol import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatRequest,
    Choice,
    ChunkChoice,
    Delta,
    ErrorResponse,
    FinishReason,
    Message,
    Model,
    Usage,
)

LONG_TEXT = 5_000
"""Characters of a conversation above which it is encoded in a thread, so that other requests go on meanwhile."""

LEAST_TEMPERATURE = 0.01
"""Below it the likeliest token has all the probability, and the logits divided by it could overflow."""


class Service:
    """A chatbot behind the protocol."""

    def __init__(self, chatbot: Chatbot, settings: ServeSettings):
        self.chatbot = chatbot
        self.settings = settings
        self.model = Model(id=settings.served_name, created=int(time.time()))
        self.metrics = Metrics()
        self.batches = Batches(
            chatbot.engine,
            max_batch_size=settings.max_batch_size,
            max_waiting=settings.max_waiting,
            on_batch=self.metrics.batch_rows.observe,
        )
        self.metrics.watch(self.batches)

    def count(self, scope: Scope, status: int) -> None:
        # The route, not the path, of which a stranger could ask endlessly many.
        route = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(route, status).inc()

    def named(self, name: str) -> Model:
        """The model of that name; raise an `ApiError` if it is not served."""
        if name != self.model.id:
            raise ApiError(
                404, f"There is no model {name!r} here; the model is {self.model.id!r}.", code="model_not_found"
            )
        return self.model

    async def submitted(self, body: ChatRequest) -> Completion:
        """The request, waiting for its turn; raise an `ApiError` if it cannot be answered."""
        self.named(body.model)
        if body.stream_options is not None and not body.stream:
            reason = "stream_options needs stream to be true."
            raise ApiError(400, reason, param="stream_options", code="invalid_value")
        if body.messages[-1].role != "user":
            raise ApiError(400, "The last message must be the user's.", param="messages", code="invalid_value")
        for modality, is_made, packages in (("image", can_draw(), "pictures"), ("audio", can_play(), "music")):
            if modality in (body.modalities or ()) and not (is_made and not body.stream):
                lacking = f"needs more packages on the server: pip install 'chatformer[{packages}]'"
                reason = "needs stream to be false" if is_made else lacking
                raise ApiError(400, f"The modality {modality} {reason}.", param="modalities", code="unsupported_value")
        settings, engine = asked(self.settings.reply, body), self.chatbot.engine
        is_drawn = settings.draws(engine.own_search)
        if body.seed is not None and is_drawn and not engine.keeps_seeds:
            raise ApiError(
                400,
                "seed cannot be kept by this server's engine (ctranslate2) above a temperature of 0. Leave it out, or "
                "set temperature to 0.",
                param="seed",
                code="unsupported_value",
            )
        longest = settings.max_new_tokens or engine.max_new_tokens
        stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
        completion = Completion(
            self.batches,
            self.chatbot.tokenizer,
            await self._encoded(body.messages),
            settings,
            num_replies=body.n or 1,
            max_new_tokens=min(longest, body.max_completion_tokens or body.max_tokens or longest),
            stop=stop,
            seed=body.seed if is_drawn else None,
            is_streamed=bool(body.stream),
        )
        try:
            completion.submit()
        except QueueFull:
            raise ApiError(
                429,
                f"{self.settings.max_waiting} replies wait already. Try again in a moment.",
                code="queue_full",
                headers={"Retry-After": "1"},
            ) from None
        self.metrics.prompt_tokens.inc(len(completion.source))
        return completion

    async def _encoded(self, messages: list[Message]) -> list[int]:
        conversation = []
        for number, message in enumerate(messages):
            content = f"messages[{number}].content"
            try:
                conversation.append(turn(role_of(message), text_of(message)))
            except NotText as error:
                raise ApiError(400, f"{content}: {error}.", param=content, code="invalid_value") from None
        if not conversation[-1]["content"]:
            raise ApiError(400, f"{content} has no text to reply to.", param=content, code="invalid_value")
        if conversation[0]["role"] != "system":
            conversation.insert(0, turn("system", self.settings.system or ""))
        if not conversation[0]["content"]:
            # As in a chat, a system message that says nothing is none.
            del conversation[0]
        arguments = self.chatbot.tokenizer, conversation, self.chatbot.max_source_tokens
        if sum(len(message["content"]) for message in conversation) > LONG_TEXT:
            return await asyncio.to_thread(encode_conversation, *arguments)
        return encode_conversation(*arguments)

    async def whole(self, completion: Completion, *, modalities: Collection[str] = ()) -> ChatCompletion:
        """The answer to a request that is not streamed, with the pictures and sounds that `modalities` name."""
        texts = await completion.finished()
        # Not here: the sound of a tune takes seconds.
        messages = await asyncio.to_thread(lambda: [message_of(text, modalities) for text in texts])
        choices = [
            Choice(index=index, message=message, finish_reason=reply.finish_reason)
            for index, (message, reply) in enumerate(zip(messages, completion.replies, strict=True))
        ]
        usage = Usage.of(len(completion.source), completion.num_tokens)
        return ChatCompletion(**self._head(), choices=choices, usage=usage)

    async def events(self, completion: Completion, has_usage: bool, began: float) -> AsyncIterator[bytes]:
        """The events of a streamed answer."""
        head, is_first = self._head() | {"object": "chat.completion.chunk"}, True
        always: dict[str, Any] = {"usage": None} if has_usage else {}

        def chunk(index: int, delta: Delta, reason: FinishReason | None = None) -> bytes:
            choice = ChunkChoice(index=index, delta=delta, logprobs=None, finish_reason=reason)
            return event(ChatCompletionChunk(**head, choices=[choice], **always))

        try:
            for index in range(len(completion.replies)):
                yield chunk(index, Delta(role="assistant", content=""))
            async for index, text in completion.pieces():
                if not text:
                    yield chunk(index, Delta(), completion.replies[index].finish_reason)
                    continue
                if is_first:
                    self.metrics.first_text_seconds.observe(time.perf_counter() - began)
                    is_first = False
                yield chunk(index, Delta(content=text))
            if has_usage:
                usage = Usage.of(len(completion.source), completion.num_tokens)
                yield event(ChatCompletionChunk(**head, choices=[], usage=usage))
            yield b"data: [DONE]\n\n"
        except Exception:
            # The status 200 is sent already; the worker has logged what happened.
            yield event(internal_error().body())

    def close(self, completion: Completion, began: float) -> None:
        """Free what a request holds, and count what it took."""
        if not completion.is_done:
            self.metrics.hang_ups.inc()
        completion.cancel()
        self.metrics.completion_tokens.inc(completion.num_tokens)
        self.metrics.seconds.observe(time.perf_counter() - began)

    def _head(self) -> dict[str, Any]:
        return {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": self.model.id}


def event(content: ChatCompletionChunk | ErrorResponse) -> bytes:
    return f"data: {content.model_dump_json(exclude_unset=True)}\n\n".encode()


def asked(default: ReplySettings, body: ChatRequest) -> ReplySettings:
    """The settings of the reply to a request; what it does not say is the server's choice."""
    temperature = default.temperature if body.temperature is None else body.temperature
    top_p = default.top_p if body.top_p is None else body.top_p
    if (temperature is not None and temperature < LEAST_TEMPERATURE) or top_p == 0:
        return dataclasses.replace(default, temperature=0.0)
    return dataclasses.replace(default, temperature=temperature, top_p=top_p)


def role_of(message: Message) -> str:
    return "system" if message.role == "developer" else message.role


def text_of(message: Message) -> str:
    if isinstance(message.content, str):
        return message.content
    return "".join(part.text for part in message.content)
