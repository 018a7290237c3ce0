"""What a run trains with: a model, an optimizer, the precision, and the steps of its epochs."""

import dataclasses
from typing import Any

import torch

from chatformer import ChatformerForConditionalGeneration, sized_config
from chatformer.data.batches import plan_epoch
from chatformer.data.exchanges import EncodedExchanges
from chatformer.fast_training import speed_up

from .settings import ModelSettings, OptimizationSettings, decided


def new_model(settings: ModelSettings, tokenizer: Any, max_new_tokens: int) -> ChatformerForConditionalGeneration:
    """Return a model with random weights that fits the tokenizer and knows when its replies end."""
    changes = dataclasses.asdict(settings)
    config = sized_config(
        changes.pop("size"),
        **changes,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
    )
    model = ChatformerForConditionalGeneration(config)
    model.generation_config.max_new_tokens = max_new_tokens
    return model


def make_optimizer(model: torch.nn.Module, plan: OptimizationSettings) -> torch.optim.Optimizer:
    """Return AdamW, its decay kept off biases, norms and the embedding."""
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Linear)} - {
        id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)
    }
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if id(p) in decayed], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups,
        lr=decided(plan.learning_rate),
        betas=(plan.adam_beta1, plan.adam_beta2),
        eps=plan.adam_epsilon,
        fused=True,
    )


class EpochPlans:
    """The steps of a run, planned epoch by epoch."""

    def __init__(self, exchanges: EncodedExchanges, plan: OptimizationSettings):
        self.exchanges = exchanges
        self.plan = plan
        self.epoch = -1
        self.steps_per_epoch = len(self.steps(0))

    def steps(self, epoch: int) -> list[Any]:
        if epoch != self.epoch:
            self.epoch = epoch
            self.current = plan_epoch(self.exchanges, decided(self.plan.tokens_per_step), self.plan.seed, epoch)
        return self.current

    def step(self, number: int) -> Any:
        """Return the indices of the run's `number`-th step, counted from 0."""
        steps = self.steps(number // self.steps_per_epoch)
        # An epoch whose exchanges have other lengths may come out a step shorter.
        return steps[number % self.steps_per_epoch % len(steps)]


def chosen_precision(mixed_precision: str) -> str:
    """Return the precision that "auto" stands for on this machine."""
    if mixed_precision != "auto":
        return mixed_precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"


def ready_to_train(model: Any, device: torch.device, *, compiled: bool) -> Any:
    """Return the model as it is trained on a device, changed in its place."""
    if device.type == "cpu":
        # On CPUs the fused attention is slower to train at the lengths of conversations.
        model.set_attn_implementation("eager")
        # Either of the two: compiled, these ways are several for each length.
        if not compiled:
            speed_up(model)
    # Tied weights are sharded together only where they are one module's.
    model.set_input_embeddings(model.get_input_embeddings())
    return model
