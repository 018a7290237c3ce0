"""Functions that wait for the import of a module, for which installed packages would take longer to import."""

import importlib
import inspect
import sys

import pytest

from chatformer.import_hooks import when_imported


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module that is not imported yet; return its name."""
    name = "waited_for"
    (tmp_path / f"{name}.py").write_text("import os\nif 'FAULT' in os.environ:\n    raise ImportError\nx = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_hooks_are_called_once_in_their_order_with_the_complete_module(module):
    called = []
    for number in (1, 2):
        when_imported(module, lambda imported, number=number: called.append((number, imported.x)))
    assert called == []
    imported = importlib.import_module(module)
    importlib.reload(imported)
    assert called == [(1, 1), (2, 1)]
    # It is imported already.
    when_imported(module, lambda imported: called.append((3, imported.x)))
    assert called[-1] == (3, 1)


def test_a_module_that_is_waited_for_keeps_its_own_loader(module):
    when_imported(module, lambda imported: None)
    imported = importlib.import_module(module)
    assert imported.__loader__ is imported.__spec__.loader
    assert isinstance(imported.__loader__, importlib.machinery.SourceFileLoader)
    assert "x = 1" in inspect.getsource(imported)


def test_hooks_wait_for_an_import_that_succeeds(module, monkeypatch):
    called = []
    when_imported(module, called.append)
    monkeypatch.setenv("FAULT", "1")
    with pytest.raises(ImportError):
        importlib.import_module(module)
    assert called == []
    monkeypatch.delenv("FAULT")
    assert called == [importlib.import_module(module)]


def test_a_module_that_does_not_exist_is_not_found():
    when_imported("no_such_module_of_chatformer", lambda imported: None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("no_such_module_of_chatformer")
