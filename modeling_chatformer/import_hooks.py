"""
Functions that are called when a module has been imported, whoever imports it.

Packages for this exist; they take more time to import than `chatformer --help` takes to print.
"""

import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

Hook = Callable[[ModuleType], object]


def when_imported(name: str, hook: Hook) -> None:
    """Call a function with a module of this name: now if it is imported already, or after its first import."""
    if name in sys.modules:
        hook(sys.modules[name])
    else:
        _finder.hooks.setdefault(name, []).append(hook)


class HookFinder:
    """Finds modules that have hooks, by the other finders of `sys.meta_path`."""

    def __init__(self) -> None:
        self.hooks: dict[str, list[Hook]] = {}
        self.asked_for: set[str] = set()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        # The search below comes here again, and is then left to the others.
        if name not in self.hooks or name in self.asked_for:
            return None
        self.asked_for.add(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.asked_for.remove(name)
        if spec is not None and spec.loader is not None:
            # No `importlib.abc.Loader`, whose import takes as long as that of a package.
            spec.loader = HookLoader(spec.loader, self.hooks)  # type: ignore[assignment]
        return spec


class HookLoader:
    """Loads a module by its own loader, then calls its hooks."""

    def __init__(self, loader: Any, hooks: dict[str, list[Hook]]):
        self.loader = loader
        self.hooks = hooks

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module's own again: it knows the source, which tracebacks and torch.compile read.
        module.__loader__ = self.loader
        if module.__spec__ is not None:
            module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        for hook in self.hooks.pop(module.__name__, []):
            hook(module)


_finder = HookFinder()
sys.meta_path.insert(0, _finder)
