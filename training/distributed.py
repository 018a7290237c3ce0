"""The processes of a run: one, or as many as `accelerate launch` started, and how they share the model."""

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, broadcast_object_list

from chatformer.configuration.declaring import SettingsError


def make_accelerator(mixed_precision: str, *, max_grad_norm: float) -> Accelerator:
    """The accelerator of a run; raises a `SettingsError` if its weights could not be collected to be published."""
    # Without the flag, the processes of a machine that has only CPUs would not find each other.
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision=mixed_precision)
    if accelerator.distributed_type == DistributedType.FSDP:
        if not accelerator.is_fsdp2:
            raise SettingsError(
                "FSDP is supported in version 2, but the --config_file says version 1: write fsdp_version: 2 into it."
            )
        if mixed_precision == "bf16":
            from torch.distributed.fsdp import MixedPrecisionPolicy

            # accelerate would round the loss, and the gradients before it sums them over the processes.
            accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
                param_dtype=torch.bfloat16, reduce_dtype=torch.float32
            )
    elif accelerator.distributed_type == DistributedType.DEEPSPEED:
        plugin = accelerator.state.deepspeed_plugin
        if plugin.zero_stage == 3:
            raise SettingsError(
                "ZeRO is supported up to stage 2, but the --config_file says zero_stage: 3. FSDP2 shards as much: "
                "take fsdp2.yaml."
            )
        plugin.deepspeed_config |= {
            # DeepSpeed clips by itself. It needs a batch size, which varies here, for its statistics only.
            "gradient_clipping": max_grad_norm,
            "train_micro_batch_size_per_gpu": 1,
            # Its own bf16 would round the published weights; autocast is what accelerate uses elsewhere.
            "bf16": {"enabled": False},
            "torch_autocast": {
                "enabled": mixed_precision == "bf16",
                "dtype": "bfloat16",
                # With an empty list, gradients are summed without rounding.
                "lower_precision_safe_modules": [],
            },
        }
    return accelerator


def is_only_one_of_several() -> bool:
    """
    True if `accelerate launch` was asked for several processes and started one.

    With --cpu, or without a GPU, accelerate leaves the others to mpirun, but sets the address where they would meet.
    """
    names = os.environ.keys()
    return {"ACCELERATE_USE_CPU", "MASTER_ADDR"} <= names and "RANK" not in names and PartialState().num_processes == 1


def from_main_process(make: Callable[[], Any]) -> Any:
    """The result of `make` on the main process, sent to every process."""
    return broadcast_object_list([make() if PartialState().is_main_process else None])[0]


def keep_freed_memory() -> None:
    """
    Keep freed memory in this process for the next tensors, instead of returning it to the system each time.

    glibc requests memory from the system for every large tensor, and the system fills it with zeros, page by page.
    Blocks of more than 32 MiB, the highest threshold that glibc accepts, are still returned: their sizes differ from
    step to step, few fit into the gaps that others left, and memory would grow without end.
    """
    if sys.platform == "linux":
        try:
            mallopt = ctypes.CDLL(None).mallopt
        # Another C library, or an interpreter that is linked statically.
        except (AttributeError, OSError):
            return
        m_trim_threshold, m_mmap_threshold = -1, -3
        mallopt(m_trim_threshold, 2**31 - 1)
        mallopt(m_mmap_threshold, 2**25)
