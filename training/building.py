"""The parts of a run: its model, its optimizer, its precision, and the steps of its epochs."""

import dataclasses
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import DistributedType
from torch import nn

from chatformer import (
    BahdanauConfig,
    BahdanauForConditionalGeneration,
    ChatformerForConditionalGeneration,
    sized_config,
)
from chatformer.attention import MultiHeadAttention
from chatformer.configuration.model import ModelSettings
from chatformer.configuration.training import OptimizationSettings, decided
from chatformer.data.batches import plan_epoch
from chatformer.data.exchanges import EncodedExchanges
from chatformer.fast_gpu_training import pack_batches
from chatformer.fast_training import speed_up
from chatformer.pictures import PICTURE, stand_alone

if TYPE_CHECKING:
    from accelerate import Accelerator


def new_model(
    settings: ModelSettings, tokenizer: Any, max_new_tokens: int
) -> ChatformerForConditionalGeneration | BahdanauForConditionalGeneration:
    """A model with random weights and the tokenizer's special tokens, whose replies have at most `max_new_tokens`."""
    changes = dataclasses.asdict(settings)
    repetition_penalty, temperature, top_p = (
        changes.pop(name) for name in ("repetition_penalty", "temperature", "top_p")
    )
    config = sized_config(
        changes.pop("size"),
        changes.pop("architecture"),
        **changes,
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.bos_token_id,
    )
    model: Any
    if isinstance(config, BahdanauConfig):
        model = BahdanauForConditionalGeneration(config)
    else:
        model = ChatformerForConditionalGeneration(config)
    model.generation_config.max_new_tokens = max_new_tokens
    model.generation_config.repetition_penalty = repetition_penalty
    if temperature:
        # Without its top_k of 0, transformers would draw from the 50 likeliest.
        model.generation_config.update(do_sample=True, temperature=temperature, top_p=top_p or 1.0, top_k=0)
    return model


def make_optimizer(model: nn.Module, plan: OptimizationSettings) -> torch.optim.Optimizer:
    """AdamW, without weight decay on biases, norms and the embedding."""
    decayed = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)} - {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)
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


def pictures_stand_alone(tokenizer: Any, exchanges: EncodedExchanges) -> bool:
    """True if some of the replies are pictures, and none has both a picture and words."""
    # A vocabulary is quicker to look through than all replies.
    return any(map(PICTURE.search, tokenizer.get_vocab())) and stand_alone(exchanges.rows["reply"])


class EpochPlans:
    """The steps of a run, planned epoch by epoch."""

    def __init__(self, exchanges: EncodedExchanges, plan: OptimizationSettings):
        self.exchanges = exchanges
        self.plan = plan
        self.epoch = -1
        self.steps_per_epoch = len(self.steps(0))

    def steps(self, epoch: int) -> list[Any]:
        """The steps of an epoch, each as the indices of its exchanges."""
        if epoch != self.epoch:
            self.epoch = epoch
            self.current = plan_epoch(self.exchanges, decided(self.plan.tokens_per_step), self.plan.seed, epoch)
        return self.current

    def step(self, number: int) -> Any:
        """The indices of the exchanges of the run's step `number`, counted from 0."""
        steps = self.steps(number // self.steps_per_epoch)
        # Epochs differ in the lengths of their exchanges: one may have a step less.
        return steps[number % self.steps_per_epoch % len(steps)]


def chosen_precision(mixed_precision: str) -> str:
    """The precision to train in: for "auto", the fastest that this machine supports."""
    if mixed_precision != "auto":
        return mixed_precision
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else "no"


def ready_to_train(model: Any, device: torch.device, *, compiled: bool) -> Any:
    """Prepare a model in place to be trained on a device; return it."""
    if device.type == "cpu":
        # On CPUs, at the lengths of conversations, the fused attention is slower to train.
        model.set_attn_implementation("eager")
        # Not both: the fast modules choose by length, and each choice would be compiled.
        if not compiled:
            speed_up(model)
    # Tied weights are sharded together only if they belong to one module.
    model.set_input_embeddings(model.get_input_embeddings())
    return model


def avoid_padding(model: Any, accelerator: "Accelerator") -> None:
    """Let a model that is trained on GPUs pack its batches, where that is possible; on CPUs `speed_up` has done so."""
    if (
        accelerator.device.type == "cuda"
        # Flash attention needs an Ampere or later; AMD's GPUs have not been tried, nor have models in shards.
        and torch.version.cuda is not None
        and torch.cuda.get_device_capability(accelerator.device) >= (8, 0)
        and accelerator.distributed_type in (DistributedType.NO, DistributedType.MULTI_GPU)
        and accelerator.mixed_precision in ("bf16", "fp16")
    ):
        pack_batches(model)


def end_dropout(model: nn.Module) -> None:
    """Let a model that is in training drop nothing from now on."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, MultiHeadAttention):
            module.dropout = 0.0


def compile_layers(model: Any) -> None:
    """Compile each layer of a Transformer in place, for all lengths at once."""
    for layer in (*model.model.encoder.layers, *model.model.decoder.layers):
        layer.compile(dynamic=True)
