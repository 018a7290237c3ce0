"""A conversation in the terminal, or through a pipe."""

import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from chatformer.configuration.declaring import SettingsError, name_of, without_effect
from chatformer.configuration.replies import ChatSettings, ReplySettings
from chatformer.conversation import NotText, normalized_text
from chatformer.storage.printing import plain_console, warn

from .errors import ChatError
from .half_blocks import Screen
from .lines import lines_of, tell_of_cut, write_reply
from .media import MediaFolder
from .remote import chatbot_of

if TYPE_CHECKING:
    from rich.console import Console

    from .chatbot import Conversation

NO_HISTORY = "This model was trained on single questions and does not read what was said before."
HELP = """/reset            begin a new conversation
/more             have the last reply go on, which models of prose can
/settings         show how replies are generated
/set NAME VALUE   change it, for example: /set temperature 0.7; none is the model's own again
/help             show this
/quit             leave (so does Ctrl-D); Ctrl-C stops a reply"""


def chat(settings: ChatSettings) -> int:
    """Converse in a terminal, or answer the lines of a pipe; return the exit status."""
    # There is none at all where it was closed.
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    # Of a download, of a server and of a system message there is something to say before.
    is_quiet = settings.url is None and settings.system is None and Path(settings.model or "", "config.json").is_file()
    if is_terminal:
        # Ctrl-C is ignored in what a script starts in the background.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if is_terminal and is_quiet:
        with LoadedMeanwhile(settings) as loaded:
            return talk(loaded, settings, media_folder(settings))
    conversation = load_conversation(settings)
    media = media_folder(settings)
    if is_terminal:
        return talk(lambda: conversation, settings, media)
    if sys.stdin is None:
        raise ChatError("Nothing can be read: standard input is closed.")
    if not conversation.chatbot.reads_history:
        warn("the model was trained on single questions, so each line is answered without those before.")
    answer_lines(conversation, settings.reply, media)
    return 0


def load_conversation(settings: ChatSettings) -> "Conversation":
    """A new conversation with the chatbot that the settings name."""
    chatbot = chatbot_of(settings)
    from .chatbot import Conversation

    return Conversation(chatbot, settings.system)


def media_folder(settings: ChatSettings) -> MediaFolder | None:
    return None if settings.save_media is None else MediaFolder(settings.save_media)


class LoadedMeanwhile:
    """A conversation that is loaded, which takes seconds, while the user types the first message."""

    def __init__(self, settings: ChatSettings):
        self._is_awaited = False
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._loading = self._executor.submit(load_conversation, settings)
        self._loading.add_done_callback(self._interrupt_input)

    def __enter__(self) -> "LoadedMeanwhile":
        return self

    def __exit__(self, *_: object) -> None:
        # Whoever leaves at once need not know of an error. An import cannot be broken off.
        self._is_awaited = True
        self._executor.shutdown()

    def __call__(self) -> "Conversation":
        self._is_awaited = True
        return self._loading.result()

    @property
    def has_failed(self) -> bool:
        return self._loading.done() and self._loading.exception() is not None

    def _interrupt_input(self, _: "Future[Conversation]") -> None:
        # Nobody is to type a message for a model that there is not. On Windows the error waits for the Enter key.
        if self.has_failed and not self._is_awaited and os.name == "posix":
            os.kill(os.getpid(), signal.SIGINT)


def answer_lines(conversation: "Conversation", settings: ReplySettings, media: MediaFolder | None) -> None:
    """Answer each line of standard input with one of standard output, as `write_reply` has it; a blank one with one."""
    num_cut, longest = 0, None
    for text in lines_of(sys.stdin.buffer, "standard input"):
        reply = conversation.say(text, settings) if text else ""
        write_reply(reply, sys.stdout)
        sys.stdout.flush()
        if media is not None:
            media.save(reply)
        if text and (limit := limit_of(conversation, text)) is not None:
            num_cut, longest = num_cut + 1, limit
    tell_of_cut(num_cut, longest)


def talk(
    loaded: "Callable[[], Conversation] | LoadedMeanwhile", settings: ChatSettings, media: MediaFolder | None = None
) -> int:
    """Converse until the user leaves; `loaded` is asked for the conversation when there is something to say."""
    with contextlib.suppress(ImportError):
        # Gives input() its line editing and history.
        import readline  # noqa: F401
    console = plain_console(soft_wrap=True)
    console.print("Say something. /help shows the commands, /quit leaves.", style="dim")
    conversation = None
    while True:
        try:
            text = normalized_text(input("\nyou> "))
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            print()
            if isinstance(loaded, LoadedMeanwhile) and loaded.has_failed:
                # It raises what is wrong.
                loaded()
            console.print("/quit or Ctrl-D leaves.", style="dim")
            continue
        except (NotText, UnicodeDecodeError):
            encoding = sys.stdin.encoding
            console.print(f"That is not text in {encoding}: set the terminal to {encoding}.", style="dim")
            continue
        if not text:
            continue
        command, *rest = text[1:].split() or [""] if text.startswith("/") else [""]
        if command in ("quit", "exit"):
            return 0
        if conversation is None:
            conversation = loaded()
            if not conversation.chatbot.reads_history:
                console.print(NO_HISTORY, style="dim")
        if text.startswith("/"):
            if command != "more":
                settings = run_command(command, rest, conversation, settings, console)
                continue
            if not conversation.has_replied:
                console.print("Say something first, which it can go on from.", style="dim")
                continue
        console.print("bot> ", style="bold cyan", end="")
        screen = Screen(console)
        try:
            if text.startswith("/"):
                last = conversation.messages[-1]["content"]
                reply = conversation.more(settings.reply, on_text=screen.write)
            else:
                last, reply = None, conversation.say(text, settings.reply, on_text=screen.write)
            screen.end()
            if reply == last:
                console.print("It says the same again: it answers, and only a model of prose goes on.", style="dim")
            if not text.startswith("/") and (limit := limit_of(conversation, text)) is not None:
                console.print(
                    f"It reads {limit} tokens at a time, and not the beginning of what you said.", style="dim"
                )
            for path in [] if media is None else media.save(reply):
                console.print(f"saved as {path}", style="dim")
        except KeyboardInterrupt:
            console.print(" (stopped, and forgotten)", style="dim")
        except ChatError as error:
            console.print(f"\n{error}", style="dim")


def limit_of(conversation: "Conversation", text: str) -> int | None:
    """The number of tokens that a model reads if the text has more of them, and it is known."""
    from .chatbot import Chatbot

    chatbot = conversation.chatbot
    return chatbot.max_source_tokens if isinstance(chatbot, Chatbot) and chatbot.cuts(text) else None


def run_command(
    command: str, rest: list[str], conversation: "Conversation", settings: ChatSettings, console: "Console"
) -> ChatSettings:
    """Run a command such as /set; return the settings for the next replies."""
    if command == "reset":
        conversation.reset()
        console.print("A new conversation begins.", style="dim")
    elif command == "settings":
        for name in dataclasses.asdict(settings.reply):
            console.print(shown_setting(settings.reply, name, conversation), style="dim")
    elif command == "set" and len(rest) != 2:
        console.print("/set takes a name and a value, such as: /set temperature 0.7", style="dim")
    elif command == "set":
        name, value = rest
        try:
            reply = settings.reply.changed(name, value)
        except SettingsError as error:
            console.print(str(error), style="dim")
            return settings
        settings = dataclasses.replace(settings, reply=reply)
        console.print(shown_setting(reply, name_of(name), conversation), style="dim")
        # Of the other flags, the command has said it.
        for sentence in without_effect(ChatSettings(url=settings.url, reply=reply)):
            console.print(sentence, style="dim")
    elif command == "help":
        console.print(HELP, style="dim")
    else:
        console.print(f"Unknown command: /{command}\n{HELP}", style="dim")
    return settings


def shown_setting(settings: ReplySettings, name: str, conversation: "Conversation") -> str:
    """A line that says what a setting is, and what the model's own is where it is left to that."""
    from .chatbot import Chatbot

    value = getattr(settings, name)
    if value is None:
        chatbot = conversation.chatbot
        value = f"{chatbot.own(name)}, the model's own" if isinstance(chatbot, Chatbot) else "as the server has it"
    return f"{name} = {value}"
