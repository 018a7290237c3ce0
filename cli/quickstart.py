"""`chatformer quickstart`: from nothing to a conversation."""

import sys
from pathlib import Path

from chatformer.configuration.recipes import parse_settings
from chatformer.configuration.replies import ChatSettings, ReplySettings
from chatformer.configuration.training import QuickstartSettings

from .train import train

QUESTIONS = ("안녕!", "오늘 좀 우울해", "어텐션이 뭐야?", "넌 누가 만들었어?", "I'm hungry", "What is a Transformer?")


def quickstart(settings: QuickstartSettings) -> int:
    """Train unless that is done, show a few replies, then chat; return the exit status."""
    from chatformer.chat.terminal import chat
    from chatformer.storage.run_folder import is_finished

    folder = Path(settings.output_dir)
    if is_finished(folder):
        print(f"{folder} is trained already; remove it to start again.", file=sys.stderr)
    elif status := train_in(folder, settings.max_steps):
        return status
    show_replies(folder)
    return chat(ChatSettings(model=str(folder)))


def train_in(folder: Path, max_steps: int | None) -> int:
    """Train by the recipe `quickstart`, or go on with an interrupted training; return the exit status."""
    from chatformer.training.checkpoints import checkpoints

    arguments = ["--recipe", "quickstart", "--output-dir", str(folder)]
    if max_steps is not None:
        arguments += ["--max-steps", str(max_steps)]
    if checkpoints(folder):
        print(f"Going on with the training in {folder}.", file=sys.stderr)
        arguments.append("--resume")
    return train(parse_settings(arguments, program="chatformer quickstart"))


def show_replies(folder: Path) -> None:
    """Print the replies to a few questions, before the user has thought of one."""
    from chatformer.chat.chatbot import Chatbot

    chatbot = Chatbot.from_pretrained(str(folder))
    print("\nA few replies:", file=sys.stderr)
    for question in QUESTIONS:
        reply = chatbot.reply([{"role": "user", "content": question}], ReplySettings())
        print(f"  you> {question}\n  bot> {reply}", file=sys.stderr)
    print(file=sys.stderr)
