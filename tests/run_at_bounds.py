"""
Run the tests with the lowest versions that pyproject.toml allows, then with the highest.

    python tests/run_at_bounds.py                              # both ends, all tests
    python tests/run_at_bounds.py --end lowest tests/chat -x   # one end, some of the tests, as pytest takes them
    python tests/run_at_bounds.py --keep torch                 # this torch, where others come with CUDA

Each end gets a virtual environment in .bounds/, with this Python; for the ends of Python itself, run it with each. It
is kept, so that the next run installs only what has changed.
What --keep names has the version that is installed beside this script's Python; what has no lower bound has one that
pip chooses.
"""

import argparse
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".bounds"


def requirements() -> Iterator[Requirement]:
    """Yield what the package and its extras require, without the tools of its tests."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name != "test"}
    for lines in (project["dependencies"], *extras.values()):
        yield from map(Requirement, lines)


def constraints_of(end: str, keep: list[str]) -> list[str]:
    """A constraint for each package that is kept, and at the lower end for each lower bound of the others."""
    kept = {canonicalize_name(name): f"{name}=={version(name)}" for name in keep}
    lowest = [
        f"{requirement.name}=={specifier.version}"
        for requirement in requirements()
        for specifier in requirement.specifier
        if specifier.operator == ">=" and canonicalize_name(requirement.name) not in kept
    ]
    return [*kept.values(), *(lowest if end == "lowest" else [])]


def run(*command: str | Path) -> int:
    """Run a command in the checkout; return its exit status."""
    print("$", *command, flush=True)
    return subprocess.run(list(map(str, command)), cwd=ROOT).returncode


def test(end: str, keep: list[str], arguments: list[str]) -> int:
    """Run the tests at one end of the ranges; return the exit status."""
    folder = ENVIRONMENTS / end
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(constraints_of(end, keep)) + "\n", "utf-8")
    newest = ("--upgrade", "--upgrade-strategy", "eager")
    # Not quietly: pip would not say which bounds are in conflict.
    return (
        run(python, "-m", "pip", "install", "--progress-bar", "off", *newest, "-c", constraints, "-e", ".[test]")
        or run(python, "-m", "pip", "check")
        or run(python, "-m", "pytest", *arguments)
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        usage="%(prog)s [-h] [--end END] [--keep PACKAGE ...] [what pytest takes ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--end", choices=["lowest", "highest"], help="both unless given")
    parser.add_argument(
        "--keep", action="append", default=[], metavar="PACKAGE", help="take the version of this environment"
    )
    settings, arguments = parser.parse_known_args()
    # A list, so that one end's failure does not leave out the other.
    return max(
        [test(end, settings.keep, arguments) for end in ([settings.end] if settings.end else ["lowest", "highest"])]
    )


if __name__ == "__main__":
    sys.exit(main())
