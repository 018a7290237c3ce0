"""What other systems lack: `resource`, SIGKILL, glibc's `mallopt`."""

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from chatformer.training import verify_resume
from chatformer.training.distributed import keep_freed_memory
from chatformer.training.pace import peak_memory, try_out


def test_a_trial_without_the_module_resource(monkeypatch):
    assert peak_memory(torch.device("cpu")) > 2**20
    # As on Windows.
    monkeypatch.setitem(sys.modules, "resource", None)
    estimate = try_out(lambda: None, lambda: None, 10, torch.device("cpu"))
    assert estimate == {"estimated_minutes_without_evaluation": 0.0, "estimated_memory_gib": None}


@pytest.mark.parametrize("library", [SimpleNamespace(), OSError("no shared library")])
def test_memory_is_as_the_system_keeps_it_without_mallopt(monkeypatch, library):
    loaded = []

    def load(name):
        loaded.append(name)
        if isinstance(library, OSError):
            raise library
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    keep_freed_memory()
    # On Linux alone is there something to ask for.
    assert loaded == ([None] if sys.platform == "linux" else [])


def test_a_killed_run_may_end_with_any_status(monkeypatch, tmp_path):
    class Process:
        """A process of Windows: it knows no signals, and ends with 1 if it is killed."""

        returncode = None

        def poll(self):
            return self.returncode

        def wait(self, timeout):
            raise subprocess.TimeoutExpired("train", timeout)

        def kill(self):
            self.returncode = 1

        def communicate(self):
            return "", "killed"

    (tmp_path / "checkpoint-5").mkdir()
    resumed = []
    monkeypatch.setattr(verify_resume, "_start", lambda recipe, folder, resume: Process())
    monkeypatch.setattr(verify_resume, "_run", lambda recipe, folder, resume: resumed.append(resume))
    assert verify_resume._run_and_kill(tmp_path / "recipe.yaml", tmp_path, 1.0) == verify_resume.NUM_KILLS
    assert resumed == [True]
