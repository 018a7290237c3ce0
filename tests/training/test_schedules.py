import pytest
import torch

from chatformer.training.schedules import make_scheduler, noam_learning_rate

PEAK = 0.5


def rates(name, *, num_steps=200, warmup_steps=20, d_model=64):
    """Return the rate at each optimizer step of a run."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = make_scheduler(name, optimizer, d_model=d_model, warmup_steps=warmup_steps, num_steps=num_steps)
    used = []
    for _ in range(num_steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return used, optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        # By hand: 512^-0.5 * 4000^-1.5, 512^-0.5 * 4000^-0.5, 512^-0.5 * 16000^-0.5.
        (1, 1.746928107e-7),
        (2000, 3.493856214e-4),
        (4000, 6.987712430e-4),
        (16000, 3.493856214e-4),
    ],
)
def test_noam_is_equation_3(step, expected):
    assert noam_learning_rate(step, d_model=512, warmup_steps=4000) == pytest.approx(expected, rel=1e-8)


def test_noam_peaks_at_the_end_of_warmup():
    found = [noam_learning_rate(step, d_model=512, warmup_steps=30) for step in range(1, 200)]
    assert max(found) == found[29] == pytest.approx((512 * 30) ** -0.5)
    assert found[:30] == sorted(found[:30])
    assert found[29:] == sorted(found[29:], reverse=True)


@pytest.mark.parametrize("warmup_steps", [0, 1, 20])
def test_the_schedule_noam_gives_step_n_the_formulas_nth_rate(warmup_steps):
    used, _ = rates("noam", warmup_steps=warmup_steps)
    expected = [PEAK * noam_learning_rate(step, d_model=64, warmup_steps=warmup_steps) for step in range(1, 201)]
    assert used == pytest.approx(expected)


@pytest.mark.parametrize("name", ["cosine", "linear", "constant", "inverse_sqrt"])
def test_every_other_schedule_rises_to_the_learning_rate_and_never_beyond(name):
    used, _ = rates(name)
    assert used[:21] == sorted(used[:21])
    assert max(used) == used[20] == pytest.approx(PEAK)
    assert used[20:] == sorted(used[20:], reverse=True)


@pytest.mark.parametrize(("name", "last"), [("cosine", 0), ("linear", 0), ("constant", PEAK)])
def test_where_a_schedule_ends(name, last):
    _, found = rates(name)
    assert found == pytest.approx(last, abs=1e-6)
