"""
What travels over the wire: OpenAI's chat completions, as far as this model can keep them.

A request's fields have the types of what is honoured, so a value that would change the answer in a way that the model
cannot keep is no valid request (400), and `REFUSALS` says why. Fields that are not named here are ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

MAX_CHOICES = 16

Probability = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class TextPart(BaseModel):
    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A turn of the conversation; `developer` is another name for `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class TextFormat(BaseModel):
    type: Literal["text"]


class AudioFormat(BaseModel):
    """How a request wants its audio; the one voice is that of the tune."""

    format: Literal["wav"] = "wav"
    voice: Any = None


class ChatRequest(BaseModel):
    """A conversation that ends with a user's message, and how the reply to it is to be generated."""

    model_config = ConfigDict(title="CreateChatCompletionRequest")

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Probability | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: (
        Annotated[str, StringConstraints(min_length=1)]
        | Annotated[list[Annotated[str, StringConstraints(min_length=1)]], Field(max_length=4)]
        | None
    ) = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None

    # What would change the answer is accepted only where it changes nothing.
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: None = None
    response_format: TextFormat | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    modalities: list[Literal["text", "image", "audio"]] | None = None
    audio: AudioFormat | None = None
    web_search_options: None = None


REFUSALS = {
    "frequency_penalty": "must be 0: the model has no such penalty",
    "presence_penalty": "must be 0: the model has no such penalty",
    "logit_bias": "must be empty: the scores of tokens cannot be changed",
    "logprobs": "must be false: probabilities are not returned",
    "top_logprobs": "must be left out: probabilities are not returned",
    "response_format": 'must be {"type": "text"}: the model cannot be held to JSON',
    "tool_choice": "must be none or auto: the model calls no tools",
    "function_call": "must be none or auto: the model calls no functions",
    "modalities": "must be of text, image and audio: the model speaks in text, which may spell pictures and tunes",
    "web_search_options": "must be left out: the model searches nothing",
    "content": 'must be a string, or a list of parts {"type": "text", "text": ...}: the model reads text alone',
    "tool_calls": "must be empty: the model calls no tools",
    "audio": "must be left out of a message, since the model reads text alone, and have the format wav in a request",
    "stop": "must be a text or a list of at most four, none of them empty",
    "role": "must be system, developer, user or assistant: the model calls no tools",
}
"""Why a field, of a request or of one of its messages, must be as it must."""


class ImageUrl(BaseModel):
    url: str


class ImagePart(BaseModel):
    type: Literal["image_url"] = "image_url"
    image_url: ImageUrl


class ReplyMessage(BaseModel):
    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class Audio(BaseModel):
    id: str
    data: str
    """A WAV file in base64."""
    expires_at: int
    transcript: str


class IllustratedMessage(ReplyMessage):
    """What a request whose modalities name images or audio gets."""

    images: list[ImagePart] = []
    """The pictures of the reply, and the scores of its tunes, as data URLs."""
    audio: Audio | None = None
    """The first tune of the reply."""


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None


FinishReason = Literal["stop", "length"]


class Choice(BaseModel):
    index: int
    message: IllustratedMessage | ReplyMessage
    logprobs: None = None
    finish_reason: FinishReason


class ChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: None = None
    finish_reason: FinishReason | None = None


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    @classmethod
    def of(cls, prompt_tokens: int, completion_tokens: int) -> "Usage":
        total = prompt_tokens + completion_tokens
        return cls(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, total_tokens=total)


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class ChatCompletionChunk(BaseModel):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None
    """Only if asked for: null in each chunk but the last."""


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "chatformer"


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    error: ErrorBody
