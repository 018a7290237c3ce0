"""The versions that a run and its figures depend on, for their records."""

import platform
from importlib.metadata import version


def environment() -> dict[str, str]:
    """The versions of Python and of the packages, and the kind of machine."""
    packages = ("chatformer", "torch", "transformers", "tokenizers", "accelerate", "datasets")
    return {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine()} | {
        package: version(package) for package in packages
    }
