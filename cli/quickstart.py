"""`chatformer quickstart`: from nothing to a conversation."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

QUESTIONS = ("안녕!", "오늘 좀 우울해", "어텐션이 뭐야?", "넌 누가 만들었어?", "I'm hungry", "What is a Transformer?")


@dataclass(frozen=True, kw_only=True)
class QuickstartSettings:
    """Train a small chatbot on the starter corpus in a few minutes, then talk to it. Needs no network."""

    output_dir: str = "chatformer-quickstart"
    """Folder of the model. One that is trained already is only talked to, and an interrupted training goes on."""
    max_steps: int | None = None
    """Steps of training; as the recipe `quickstart` has it unless given."""


def main(arguments: Sequence[str]) -> int:
    """Train unless that is done, show a few replies, then chat; return the exit status."""
    settings = tyro.cli(QuickstartSettings, args=list(arguments), prog="chatformer quickstart")
    from chatformer.chat.terminal import main as chat
    from chatformer.storage.run_folder import is_finished

    folder = Path(settings.output_dir)
    if is_finished(folder):
        print(f"{folder} is trained already; remove it to start again.", file=sys.stderr)
    else:
        status = train(folder, settings.max_steps)
        if status:
            return status
    show_replies(folder)
    return chat([str(folder)])


def train(folder: Path, max_steps: int | None) -> int:
    from chatformer.training.checkpoints import checkpoints
    from chatformer.training.train import main as train

    arguments = ["--recipe", "quickstart", "--output-dir", str(folder)]
    if max_steps is not None:
        arguments += ["--max-steps", str(max_steps)]
    if checkpoints(folder):
        print(f"Going on with the training in {folder}.", file=sys.stderr)
        arguments.append("--resume")
    return train(arguments, "chatformer quickstart")


def show_replies(folder: Path) -> None:
    from chatformer.chat.chatbot import Chatbot
    from chatformer.chat.settings import ReplySettings

    chatbot = Chatbot.from_pretrained(str(folder))
    print("\nA few replies:", file=sys.stderr)
    for question in QUESTIONS:
        reply = chatbot.reply([{"role": "user", "content": question}], ReplySettings())
        print(f"  you> {question}\n  bot> {reply}", file=sys.stderr)
    print(file=sys.stderr)
