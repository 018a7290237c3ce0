"""Running a page: its blocks in order, in a folder of their own, and what each of them prints."""

import contextlib
import io
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from command import note
from pages import ROOT, Block
from pictures import Facts, recorded

TRAINS = re.compile(r"^(chatformer (?:train|quickstart)|python benchmarks/ablations\.py)\b", re.MULTILINE)
SERVES = re.compile(r"^chatformer (?:web|serve) [^#]*")
PUSHES = re.compile(r"\bchatformer push\b")
NOT_RUN = re.compile(r"\b(?:chatformer space|pip install|accelerate launch)\b")
"""Lines that install, need other machines, or need a model that is on the Hub."""
PORT = 8000
"""The port of the API on the pages."""
SECONDS_TO_START = 180
LENGTH = re.compile(r" --(?:max|eval)-steps \d+")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class BlockFailed(Exception):
    """A block of a page ended with an error."""


@dataclass
class Session:
    """A folder in which the blocks of pages run, and what they share."""

    folder: Path
    max_steps: int | None = None
    """Steps of each training, for a test; those of the page unless given."""
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    """The variables of the Python blocks."""

    def __post_init__(self) -> None:
        commands = self.folder / ".bin"
        commands.mkdir(parents=True, exist_ok=True)
        for name, words in (("python", ""), ("chatformer", f'"{ROOT / "docs/building/command.py"}" ')):
            script = commands / name
            script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {words}"$@"\n', "utf-8")
            script.chmod(0o755)
        link = self.folder / "benchmarks"
        if not link.exists():
            link.symlink_to(ROOT / "benchmarks")
        self.environment = os.environ | {
            "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUTF8": "1",
            "COLUMNS": "100",
            "NO_COLOR": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, block: Block) -> str:
        """What a block prints; raise a `BlockFailed` if it fails."""
        return self.run_bash(block.code) if block.language == "bash" else self.run_python(block.code)

    def run_bash(self, code: str) -> str:
        """Run a block; a server in it, at a free port, runs until the end of the block."""
        lines = [line for line in code.replace("\\\n", "").splitlines() if not NOT_RUN.search(line)]
        printed, port = [], PORT
        with contextlib.ExitStack() as servers:
            for served, group in itertools.groupby(lines, key=SERVES.match):
                if served:
                    port = servers.enter_context(self.serving(served[0].rstrip()))
                else:
                    printed.append(self.run_lines("\n".join(group).replace(f":{PORT}/", f":{port}/")))
        return "".join(printed)

    @contextlib.contextmanager
    def serving(self, command: str) -> Iterator[int]:
        """Run a server; give its port as soon as it answers."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = int(free.getsockname()[1])
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {command} --port {port}"],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                for _ in range(SECONDS_TO_START):
                    # Only a reply says that it runs: a server may take its port before it has read the model.
                    with contextlib.suppress(OSError, HTTPException):
                        client = HTTPConnection("127.0.0.1", port, timeout=1)
                        client.request("GET", "/")
                        client.getresponse()
                        break
                    if process.poll() is not None:
                        output.seek(0)
                        raise BlockFailed(f"{command} ended:\n{output.read().decode('utf-8', errors='replace')}")
                    time.sleep(1)
                else:
                    raise BlockFailed(f"{command} did not answer within {SECONDS_TO_START} seconds.")
                yield port
            finally:
                process.terminate()
                process.wait()

    def run_lines(self, code: str) -> str:
        # All of a push but the push: it lists what would travel. A client fails if the server answers with an error.
        code = PUSHES.sub(r"\g<0> --dry-run", code).replace("curl ", "curl --silent --show-error --fail-with-body ")
        if self.max_steps is not None and TRAINS.search(code):
            code = TRAINS.sub(rf"\1 --max-steps {self.max_steps}", LENGTH.sub("", code))
        result = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", code],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        # As bytes: a text's lines would end where a bar begins again.
        printed = result.stdout.decode("utf-8", errors="replace").replace("\r\n", "\n")
        if result.returncode:
            raise BlockFailed(f"This ended with status {result.returncode}:\n{code}\n{printed[-3000:]}")
        return printed

    def run_python(self, code: str) -> str:
        printed = io.StringIO()
        with contextlib.chdir(self.folder), contextlib.redirect_stdout(printed), recorded(note):
            try:
                exec(compile(code, "<a block of the page>", "exec"), self.names)
            except Exception as error:
                raise BlockFailed(f"This raised an error:\n{code}\n{traceback.format_exc()}") from error
        return printed.getvalue()

    def pictures(self) -> dict[str, tuple[Path, Facts]]:
        """The pictures that the blocks have drawn, by name, with the data behind them."""
        found = {}
        for file in sorted(self.folder.glob("*.facts.json")):
            picture = file.with_name(file.name.removesuffix(".facts.json") + ".png")
            found[picture.name] = (picture, json.loads(file.read_text("utf-8")))
        return found


def codes_after_running(blocks: Sequence[Block], session: Session) -> Iterator[str]:
    """The code of each block after all have run: those that show an output have what was printed."""
    printed = ""
    for block in blocks:
        if block.is_run:
            printed = session.run(block)
        yield legible(printed, block.value) if block.marker == "output" else block.code


def legible(printed: str, part: str) -> str:
    """What a reader sees of an output: without colours, bars and spaces at ends; `part` is such as "last 12"."""
    lines = [line.rpartition("\r")[2].rstrip() for line in ESCAPE.sub("", printed).strip("\n").split("\n")]
    if part:
        where, number = part.split()
        if len(lines) > int(number):
            lines = ["⋮", *lines[-int(number) :]] if where == "last" else [*lines[: int(number)], "⋮"]
    return "\n".join(lines) + "\n"
