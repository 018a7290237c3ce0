"""From a command's settings to a chatbot."""

import contextlib
import gc
from collections.abc import Iterator
from typing import TYPE_CHECKING

from chatformer.configuration.replies import ChatbotSettings
from chatformer.conversation import NotText, normalized_text
from chatformer.reading import reads_system
from chatformer.storage.printing import warn

from .errors import InputError

if TYPE_CHECKING:
    from .chatbot import Chatbot


def load_chatbot(settings: ChatbotSettings, *, num_parallel: int = 1) -> "Chatbot":
    """
    Load the model that the settings name, and print its commit; raise `ModelNotFound` if it cannot be loaded.

    CTranslate2 replies to `num_parallel` batches at the same time.
    """
    check_system(settings.system)
    with collecting_no_garbage():
        # Only now, with correct flags: these take seconds to import.
        from .chatbot import Chatbot

        chatbot = Chatbot.from_pretrained(
            settings.model,
            engine=settings.engine,
            revision=settings.revision,
            device=settings.device,
            num_parallel=num_parallel,
        )
    if settings.seed is not None:
        chatbot.engine.set_seed(settings.seed)
    chatbot.folder.show_commit()
    if settings.system and not reads_system(chatbot.tokenizer):
        warn(
            "--system is ignored: the model was trained without system messages, and its chat template leaves them out."
        )
    return chatbot


def check_system(system: str | None) -> None:
    """Raise an `InputError` for a system message that is no text."""
    try:
        normalized_text(system or "", "--system")
    except NotText as error:
        raise InputError(f"{error}. Pass text in UTF-8.") from error


@contextlib.contextmanager
def collecting_no_garbage() -> Iterator[None]:
    """Skip garbage collection while loading (a quarter of the time) and freeze what was loaded: it stays."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
