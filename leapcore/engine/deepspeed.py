"""DeepSpeed around the distiller, in one process without a launcher."""

from __future__ import annotations

import logging
import math
import os
from typing import Any

import torch
from torch import nn

from leapcore.compat import import_deepspeed, import_timm
from leapcore.core.lr import LrSchedule
from leapcore.core.projection import Projector
from leapcore.errors import SpecError, did_you_mean
from leapcore.spec import OptimizerSpec, Spec

_EMBEDDINGS = ("pos_embed", "cls_token", "reg_token", "dist_token")


def wrap(module: nn.Module, spec: Spec, schedule: LrSchedule) -> Any:
    """A DeepSpeed engine that trains the module as the spec says.

    Args:
        module: The distiller; the teacher is no part of it.
        spec: The run.
        schedule: The course of the learning rate.

    Raises:
        SpecError: The optimizer is unknown or cannot be used.
    """
    deepspeed = import_deepspeed()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    _make_process_group()
    optimizer = _optimizer(module, spec.optimizer, peak_lr(spec))
    engine, *_ = deepspeed.initialize(
        model=module,
        optimizer=optimizer,
        lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, schedule),
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


def peak_lr(spec: Spec) -> float:
    """The peak learning rate, scaled with the square root of the batch where the spec names a reference."""
    reference = spec.optimizer.reference_batch or spec.train.batch_size
    return spec.optimizer.lr * math.sqrt(spec.train.batch_size / reference)


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
        store = torch.distributed.HashStore()  # type: ignore[attr-defined]
        torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)


def _optimizer(module: nn.Module, spec: OptimizerSpec, lr: float) -> torch.optim.Optimizer:
    """The optimizer from timm; norms, biases, embeddings and heads that wait for their turn do not decay."""
    import_timm()
    from timm.optim import create_optimizer_v2, list_optimizers, param_groups_weight_decay

    if spec.name not in list_optimizers():
        raise SpecError(
            f"optimizer.name: timm has no optimizer '{spec.name}'", did_you_mean(spec.name, list_optimizers())
        )
    names = [name for name, _ in module.named_parameters()]
    spared = {name for name in names if name.rpartition(".")[2] in _EMBEDDINGS} | _heads_in_waiting(module)
    groups = param_groups_weight_decay(module, spec.weight_decay, no_weight_decay_list=spared)
    try:
        optimizer: torch.optim.Optimizer = create_optimizer_v2(groups, opt=spec.name, lr=lr, weight_decay=0.0)
    # Some of timm's optimizers need a package or a GPU, and each says so in its own way.
    except Exception as error:
        raise SpecError(
            f"optimizer.name: '{spec.name}' cannot be used here: {type(error).__name__}: {error}",
            "Use another one, such as lars, adamw or sgd.",
        ) from error
    return optimizer


def _heads_in_waiting(module: nn.Module) -> set[str]:
    """Heads of which there are several: those that are not the target's would only shrink."""
    projectors = [(path, part) for path, part in module.named_modules() if isinstance(part, Projector)]
    return {
        f"{path}.{name}"
        for path, projector in projectors
        if len(projector.heads) > 1
        for name, _ in projector.named_parameters()
    }
