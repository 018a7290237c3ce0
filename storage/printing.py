"""How commands print: texts and names of users as they are, on a terminal of any encoding."""

import io
import os
import sys
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def print_in_any_encoding() -> None:
    """Let standard output print "?" for what its encoding does not have, rather than stop, as standard error does."""
    # A process without a terminal may have none, and a notebook has another object there.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")


def warn(*sentences: str) -> None:
    """Print warnings on standard error, once where `accelerate launch` started several processes."""
    if os.environ.get("RANK", "0") == "0":
        for sentence in sentences:
            print(f"warning: {sentence}", file=sys.stderr)


def plain_console(*, stderr: bool = False, file: IO[str] | None = None, soft_wrap: bool = False) -> "Console":
    """
    A console of rich on standard output, on `stderr` or on a `file`, which prints texts as they are.

    Neither [brackets] nor :names: of emoji are markup for it: styles come as `style=` or as a `rich.text.Text`.
    """
    from rich.console import Console

    return Console(stderr=stderr, file=file, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)
