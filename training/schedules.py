"""The learning rate at each step: Section 5.3 of "Attention Is All You Need", and the schedules of transformers."""

import torch
from transformers import get_scheduler


def noam_learning_rate(step: int, *, d_model: int, warmup_steps: int) -> float:
    """
    The paper's rate at `step`, counted from 1 (Equation 3).

    lrate = d_model^-0.5 * min(step^-0.5, step * warmup_steps^-1.5).
    """
    return d_model**-0.5 * min(step**-0.5, step * max(1, warmup_steps) ** -1.5)


def make_scheduler(
    name: str, optimizer: torch.optim.Optimizer, *, d_model: int, warmup_steps: int, num_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The schedule `name` over `num_steps`; "noam" multiplies the optimizer's rate by the paper's."""
    if name == "noam":
        return torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda done: noam_learning_rate(done + 1, d_model=d_model, warmup_steps=warmup_steps)
        )
    stock_name = "constant_with_warmup" if name == "constant" else name
    return get_scheduler(stock_name, optimizer, num_warmup_steps=warmup_steps, num_training_steps=num_steps)


def restart_schedule(scheduler: torch.optim.lr_scheduler.LambdaLR, base_rates: list[float]) -> None:
    """Let a schedule go on from the step that it has reached with these rates in place of those that it began with."""
    rates = [rate * share(scheduler.last_epoch) for rate, share in zip(base_rates, scheduler.lr_lambdas, strict=True)]
    scheduler.load_state_dict({**scheduler.state_dict(), "base_lrs": base_rates, "_last_lr": rates})
    for group, base_rate, rate in zip(scheduler.optimizer.param_groups, base_rates, rates, strict=True):
        group |= {"initial_lr": base_rate, "lr": rate}


def learning_rates(name: str, *, learning_rate: float, d_model: int, warmup_steps: int, num_steps: int) -> list[float]:
    """The rate of each step of a run."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=learning_rate)
    scheduler = make_scheduler(name, optimizer, d_model=d_model, warmup_steps=warmup_steps, num_steps=num_steps)
    rates = []
    for _ in range(num_steps):
        rates.append(float(scheduler.get_last_lr()[0]))
        optimizer.step()
        scheduler.step()
    return rates
