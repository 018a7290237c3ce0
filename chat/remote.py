"""A chatbot on another machine, or in another process: any server of OpenAI's chat completions."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from chatformer.configuration.replies import ChatSettings, ReplySettings

from .errors import ChatError
from .loading import check_system, load_chatbot

if TYPE_CHECKING:
    import httpx2

    from chatformer.conversation import Message

    from .chatbot import Chatbot

KEY_VARIABLE = "CHATFORMER_API_KEY"
SECONDS_TO_CONNECT = 10.0


class RemoteChatbot:
    """A model behind a URL, which answers conversations as a `Chatbot` does."""

    # A server does not say whether it does; it is sent the entire conversation.
    reads_history = True

    def __init__(self, client: "httpx2.Client", model: str, seed: int | None = None):
        self.client = client
        self.model = model
        self.seed = seed

    @classmethod
    def connect(cls, settings: ChatSettings) -> "RemoteChatbot":
        """Ask the server for its models; raise a `ChatError` if it does not answer, or has none."""
        # Here, for `--help` needs no network.
        import httpx2

        assert settings.url is not None
        check_system(settings.system)
        key = settings.api_key or os.environ.get(KEY_VARIABLE)
        client = httpx2.Client(
            base_url=base_url_of(settings.url),
            headers={b"Authorization": f"Bearer {key}".encode()} if key else {},
            # A reply may take long, and so may the wait for one's turn.
            timeout=httpx2.Timeout(None, connect=SECONDS_TO_CONNECT),
        )
        with explained_answers(settings.url):
            answer = client.get("models", timeout=SECONDS_TO_CONNECT)
            raise_for(answer)
            models = [model["id"] for model in answer.json()["data"]]
        # A server may know more names than it lists.
        names = [settings.model, *models] if settings.model else models
        if not names:
            raise ChatError(f"{settings.url} lists no model. Give the name of one.")
        return cls(client, names[0], settings.seed)

    def reply(
        self, messages: "Sequence[Message]", settings: ReplySettings, on_text: Callable[[str], None] | None = None
    ) -> str:
        """
        The reply to a conversation that ends with a user's message; each piece goes to `on_text` as it comes.

        Of the settings, the temperature, top-p and the longest reply are the client's choice, the others the server's.
        """
        body: dict[str, Any] = {"model": self.model, "messages": list(messages), "stream": True}
        # What is not set is the server's choice.
        body |= {} if settings.temperature is None else {"temperature": settings.temperature}
        if settings.temperature:
            body |= {} if settings.top_p is None else {"top_p": settings.top_p}
        body |= {} if self.seed is None else {"seed": self.seed}
        if settings.max_new_tokens is not None:
            body["max_tokens"] = settings.max_new_tokens
        reply = ""
        with (
            explained_answers(str(self.client.base_url)),
            self.client.stream("POST", "chat/completions", json=body) as answer,
        ):
            if answer.is_error:
                answer.read()
            raise_for(answer)
            for piece in pieces(answer.iter_lines()):
                reply += piece
                if on_text is not None:
                    on_text(piece)
        return reply


def chatbot_of(settings: ChatSettings) -> "Chatbot | RemoteChatbot":
    """The chatbot that the settings name, on this machine or behind a URL; raise a `ChatError` if they name none."""
    if settings.url is not None:
        return RemoteChatbot.connect(settings)
    if not settings.model:
        raise ChatError("The folder of a model must be given, or --url with the address of a server.")
    return load_chatbot(settings)


def base_url_of(url: str) -> "httpx2.URL":
    """The address that all of a server's routes begin with; raise a `ChatError` if it is none."""
    import httpx2

    with contextlib.suppress(httpx2.InvalidURL):
        parsed = httpx2.URL(url)
        if parsed.scheme in ("http", "https") and parsed.host:
            # Most people leave out the path that every such server has.
            return parsed if parsed.path.strip("/") else parsed.copy_with(path="/v1")
    raise ChatError(f"--url must be an address such as http://127.0.0.1:8000, but it is {url!r}.")


def pieces(lines: Iterator[str]) -> Iterator[str]:
    """The pieces of text in a stream of server-sent events; raise a `ChatError` if it ends before the reply does."""
    for line in lines:
        field, _, value = line.partition(":")
        if field != "data":
            continue
        if value.strip() == "[DONE]":
            return
        event = json.loads(value)
        if "error" in event:
            raise ChatError(f"The server failed: {event['error'].get('message', event['error'])}")
        for choice in event["choices"]:
            if text := choice["delta"].get("content"):
                yield text
    raise ChatError("The server ended the reply before it was complete.")


def raise_for(answer: "httpx2.Response") -> None:
    """Raise a `ChatError` with the server's own words if it refused."""
    if answer.is_success:
        return
    try:
        reason = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        reason = answer.reason_phrase
    hint = f" Give it with {KEY_VARIABLE}." if answer.status_code == 401 else ""
    raise ChatError(f"The server refused ({answer.status_code}): {reason}{hint}")


@contextlib.contextmanager
def explained_answers(url: str) -> Iterator[None]:
    """Turn the errors of the network, and those of a server of another protocol, into a `ChatError`."""
    import httpx2

    try:
        yield
    except httpx2.HTTPError as error:
        raise ChatError(f"{url} cannot be reached: {error or type(error).__name__}. Is the server running?") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ChatError):
            raise
        raise ChatError(f"{url} does not answer as OpenAI's protocol says ({error!r}).") from error
