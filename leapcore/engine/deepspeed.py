"""DeepSpeed around the distiller, in one process without a launcher."""

from __future__ import annotations

import logging
import os
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._C._distributed_c10d import HashStore

from leapcore.compat import import_deepspeed, import_timm
from leapcore.engine.lr import lr_multiplier
from leapcore.errors import SpecError, did_you_mean
from leapcore.spec import OptimizerSpec, Spec

_EMBEDDINGS = ("pos_embed", "cls_token", "reg_token", "dist_token")


def wrap(module: nn.Module, spec: Spec, total_steps: int, steps_per_epoch: int) -> Any:
    """A DeepSpeed engine that trains the module as the spec says.

    Args:
        module: The distiller; the teacher is no part of it.
        spec: The run.
        total_steps: Length of the learning-rate schedule.
        steps_per_epoch: For durations in epochs.

    Raises:
        SpecError: The optimizer is unknown.
    """
    deepspeed = import_deepspeed()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    _make_process_group()
    optimizer = _optimizer(module, spec.optimizer)
    multiplier = partial(
        lr_multiplier,
        total=total_steps,
        warmup=min(spec.optimizer.warmup.in_steps(steps_per_epoch), total_steps),
        schedule=spec.optimizer.schedule,
    )
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, multiplier),
        config=engine_config(spec),
        dist_init_required=False,
    )
    return engine


def engine_config(spec: Spec) -> dict[str, Any]:
    """DeepSpeed's settings for a spec."""
    return {
        "train_micro_batch_size_per_gpu": spec.train.batch_size,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": spec.optimizer.clip,  # left out, DeepSpeed would clip at 1
        "zero_optimization": {"stage": spec.engine.zero_stage},
        "zero_allow_untested_optimizer": True,  # LARS and SGD; the update itself is the optimizer's own
        "torch_autocast": {"enabled": spec.train.precision == "bfloat16", "dtype": "bfloat16"},
        "steps_per_print": None,
    }


def device() -> torch.device:
    """Where this process computes."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    return torch.device("cpu")


def _make_process_group() -> None:
    """Be a process group of one, without launcher or network."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise SpecError(
            "a launcher started several processes, but a run uses one so far", "Start it without a launcher."
        )
    if not torch.distributed.is_initialized():
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def _optimizer(module: nn.Module, spec: OptimizerSpec) -> torch.optim.Optimizer:
    """The optimizer from timm; norms, biases and embeddings do not decay."""
    import_timm()
    from timm.optim import create_optimizer_v2, list_optimizers, param_groups_weight_decay

    if spec.name not in list_optimizers():
        raise SpecError(
            f"optimizer.name: timm has no optimizer '{spec.name}'", did_you_mean(spec.name, list_optimizers())
        )
    embeddings = {name for name, _ in module.named_parameters() if name.rpartition(".")[2] in _EMBEDDINGS}
    groups = param_groups_weight_decay(module, spec.weight_decay, embeddings)
    optimizer: torch.optim.Optimizer = create_optimizer_v2(
        groups, opt=spec.name, lr=spec.lr, weight_decay=0.0
    )
    return optimizer
