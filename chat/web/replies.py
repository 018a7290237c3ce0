"""A reply that grows, and can be stopped."""

import queue
import threading
from collections.abc import Generator, Sequence

from chatformer.chat.chatbot import Answer, Chatbot, Replier
from chatformer.configuration.replies import ReplySettings
from chatformer.conversation import Message


class Stopped(Exception):
    """The reader does not want the rest of the reply."""


def growing_reply(
    chatbot: Replier, messages: Sequence[Message], settings: ReplySettings
) -> Generator[str | Answer, None, None]:
    """
    Yield the reply so far each time that it has grown, and the complete answer at the end.

    If the generator is closed before, the model stops at its next token.
    """
    news: queue.SimpleQueue[str | Answer | Exception] = queue.SimpleQueue()
    is_stopped = threading.Event()

    def pass_on(piece: str) -> None:
        if is_stopped.is_set():
            raise Stopped
        news.put(piece)

    def reply() -> None:
        try:
            if isinstance(chatbot, Chatbot):
                news.put(chatbot.answer(messages, settings, pass_on))
            else:
                news.put(Answer([], [], chatbot.reply(messages, settings, pass_on)))
        except Stopped:
            # Nobody waits any more.
            pass
        # It is raised again where the page waits, which would else wait for ever.
        except Exception as error:
            news.put(error)

    threading.Thread(target=reply, daemon=True).start()
    text = ""
    try:
        while True:
            new = news.get()
            if isinstance(new, Exception):
                raise new
            if isinstance(new, Answer):
                yield new
                return
            text += new
            yield text
    finally:
        is_stopped.set()
