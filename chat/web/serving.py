"""`chatformer web`: from settings to a running page."""

import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from chatformer.chat.remote import RemoteChatbot, chatbot_of
from chatformer.chat.serving.server import check_packages, is_open_to_others, listening
from chatformer.configuration.replies import WebSettings
from chatformer.storage.names import LOG_FILE
from chatformer.storage.run_folder import Records

if TYPE_CHECKING:
    from .page import Page

PACKAGES = ("gradio", "plotly")
GREETINGS = ("안녕하세요!", "Hello!")
MAX_EXAMPLES = 6


def web(settings: WebSettings) -> None:
    """Serve a page to talk to a model until the process is asked to stop."""
    # Gradio would ask its makers' server for news as soon as it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    check_packages(PACKAGES, command="web", extra="web")
    # Before the model is loaded: a port in use is an error now, not after seconds.
    with listening(settings.host, settings.port) as listener:
        host, port = listener.getsockname()[:2]
    page = page_of(settings)
    if is_open_to_others(host):
        print(f"WARNING: the page is open at {host} to all who can reach this machine.", file=sys.stderr)
    blocks = page.launch(host, port)
    shown = f"[{host}]" if ":" in host else host
    print(f"The page of {page.title} is at http://{shown}:{port}/ (Ctrl-C stops).", flush=True)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    try:
        stop.wait()
    finally:
        blocks.close(verbose=False)


def page_of(settings: WebSettings) -> "Page":
    """The page of a model on this machine, or of one behind a URL."""
    from .page import Page

    chatbot = chatbot_of(settings)
    if isinstance(chatbot, RemoteChatbot):
        return Page(
            chatbot=chatbot,
            title=settings.title or chatbot.model,
            examples=GREETINGS,
            settings=settings.reply,
            system=settings.system,
        )
    folder = chatbot.folder.folder
    records = Records.read(folder) if (folder / LOG_FILE).is_file() else None
    questions = records.questions() if records and settings.examples else []
    return Page(
        chatbot=chatbot,
        title=settings.title or Path(settings.model).absolute().name,
        examples=list(dict.fromkeys([*GREETINGS, *questions]))[:MAX_EXAMPLES],
        settings=settings.reply,
        system=settings.system,
        log=records.log if records else [],
    )
