import pytest

from chatformer.training import gradients
from chatformer.training.run import Run


@pytest.fixture
def replace_loss_of_run(monkeypatch):
    """Replace `training_loss` once a run takes its steps, after its pace has been measured by the same function."""
    go = Run.go

    def replace(training_loss):
        def go_with_it(run, folder):
            monkeypatch.setattr(gradients, "training_loss", training_loss)
            return go(run, folder)

        monkeypatch.setattr(Run, "go", go_with_it)

    return replace
