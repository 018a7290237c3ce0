"""The processes of a run: one, or as many as `accelerate launch` has started, and how they share the model."""

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, broadcast_object_list

from .settings import SettingsError


def make_accelerator(mixed_precision: str, *, max_grad_norm: float) -> Accelerator:
    """Return the accelerator that a run is to have; raise a `SettingsError` where its weights would be out of reach."""
    # Without the flag, the processes of a machine that has only CPUs would not find each other.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=mixed_precision)
    if accelerator.distributed_type == DistributedType.FSDP:
        if not accelerator.is_fsdp2:
            raise SettingsError("FSDP is supported in its version 2: write fsdp_version: 2 into the --config_file.")
        if mixed_precision == "bf16":
            from torch.distributed.fsdp import MixedPrecisionPolicy

            # accelerate would round the gradients before it adds those of the processes, and the loss too.
            accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32
            )
    elif accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin = accelerator.state.deepspeed_plugin
        if plugin.zero_stage == 3:
            raise SettingsError(
                "ZeRO is supported up to its stage 2, but the --config_file says zero_stage: 3. FSDP2 shards as much."
            )
        plugin.deepspeed_config |= {
            # Clipping is DeepSpeed's own; the size of batches, which varies here, it wants for its statistics alone.
            "gradient_clipping": max_grad_norm,
            "train_micro_batch_size_per_gpu": 1,
            # Its own bf16 would round the weights that are published; this is what accelerate does elsewhere.
            "bf16": {"enabled": False},
            "torch_autocast": {
                "enabled": mixed_precision == "bf16",
                "dtype": "bfloat16",
                # Without these, gradients are added up unrounded.
                "lower_precision_safe_modules": [],
            },
        }
    return accelerator


def from_main_process(make: Callable[[], Any]) -> Any:
    """What the main process makes, on every process."""
    return broadcast_object_list([make() if PartialState().is_main_process else None])[0]


def keep_freed_memory() -> None:
    """
    Have this process keep the memory that tensors leave, for the next ones, instead of giving it back each time.

    glibc asks the system for every large tensor anew, and the system then fills it with zeros, page by page. Blocks of
    more than 32 MiB, the most that glibc lets one say, still come and go: of these, which differ from step to step,
    few fit into the gaps that others left, and memory would grow without end.
    """
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        except AttributeError:  # Another C library.
            return
        m_trim_threshold, m_mmap_threshold = -1, -3
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_mmap_threshold, 2**25)
