"""DeepSpeed around the distiller, from one process without a launcher to many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from leapcore.compat import import_deepspeed
from leapcore.core.distiller import Distiller
from leapcore.core.layer_check import uncalled_modules
from leapcore.distributed.ranks import Ranks
from leapcore.errors import SpecError, did_you_mean, shared
from leapcore.models.compile import compile_blocks
from leapcore.spec import Spec
from leapcore.spec.engine import images_at_once
from leapcore.train.optimizers import build_optimizer, peak_lr


class Engine:
    """The distiller in training.

    Args:
        distiller: What is trained; no teacher is part of it.
        spec: The run.
        ranks: The processes that share the work.

    Attributes:
        module: The distiller.
        zero_stage: How much of it is partitioned.
        is_first: Whether this is the first process.
        optimizer: timm's optimizer, which DeepSpeed's own may be wrapped around.
        wrapped: DeepSpeed's engine.

    Raises:
        SpecError: The optimizer is unknown or cannot be used, or DeepSpeed refuses its settings.
    """

    def __init__(self, distiller: Distiller, spec: Spec, ranks: Ranks) -> None:
        self.module = distiller
        self.zero_stage = spec.engine.zero_stage
        self.is_first = ranks.is_first
        if spec.engine.compile:
            compile_blocks(distiller.student, ranks.device)
        if spec.engine.gradient_checkpointing:
            distiller.student.checkpoint_gradients()
        self._peak = peak_lr(spec)
        self.optimizer = build_optimizer(distiller, spec.optimizer, self._peak, zero_stage=self.zero_stage)
        self._brake = _Brake(self.optimizer)
        outside = _parameters_used_outside(distiller) if self.zero_stage == 3 else []
        settings = _Settings(engine_config(spec, ranks))
        self.wrapped = _wrapped(distiller, self.optimizer, settings)
        settings.check(spec.engine.deepspeed)
        for parameter in outside:
            import_deepspeed().zero.register_external_parameter(distiller, parameter)

    def __call__(self, *args: Any) -> Any:
        """The distiller's forward pass."""
        return self.wrapped(*args)

    def train(self) -> None:
        """Put the student into training mode."""
        self.wrapped.train()

    def backward(self, loss: Tensor) -> None:
        """Add a loss's gradients, averaged over the processes and the parts of a batch."""
        self.wrapped.backward(loss)

    def set_rate(self, multiplier: float) -> float:
        """Use this share of the peak learning rate in the next step, and say what that is."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._peak * multiplier
        return self._peak * multiplier

    @property
    def loss_scaler(self) -> Any:
        """What keeps small gradients in float16 from vanishing; None with other precisions."""
        plain = self.wrapped.torch_autocast_z0_gradscaler
        return plain or getattr(self.wrapped.optimizer, "torch_autocast_gradscaler", None)

    def step(self, *, hold: bool = False) -> None:
        """End a part of a batch; after the last one, update the weights.

        Args:
            hold: Drop the gradients instead, and leave the weights as they are.
        """
        self._brake.on = hold
        self.wrapped.step()
        self._brake.on = False


def _wrapped(distiller: Distiller, optimizer: Any, settings: _Settings) -> Any:
    """DeepSpeed's engine around a distiller and its optimizer."""
    try:
        engine, *_ = import_deepspeed().initialize(
            model=distiller, optimizer=optimizer, config=settings, dist_init_required=False
        )
    except RuntimeError:  # the machine's fault
        raise
    # Settings are checked in many places, each with an error of its own.
    except Exception as error:
        refused = SpecError(
            f"engine: DeepSpeed refuses these settings: {' '.join(str(error).split())}",
            "Mend the keys of engine, above all what is passed through in engine.deepspeed.",
        )
        raise shared(refused) from error
    return engine


class _Brake:
    """Stands in for an optimizer's step, so that one can be left out with all its bookkeeping done."""

    def __init__(self, optimizer: Any) -> None:
        self.on = False
        self._step = optimizer.step
        optimizer.step = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return None if self.on else self._step(*args, **kwargs)


class _Settings(dict[str, Any]):
    """Settings that note which keys DeepSpeed looks up: it passes over those that it does not know."""

    def __init__(self, settings: dict[str, Any]) -> None:
        super().__init__(settings)
        self.known: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.known.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self.known.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.known.add(key)
        return super().get(key, default)

    def __deepcopy__(self, memo: Any) -> _Settings:
        return self  # or the copy would do the noting

    def check(self, passed: dict[str, Any]) -> None:
        """Refuse what was passed through and never looked at."""
        for key in passed:
            if key not in self.known:
                unknown = SpecError(
                    f"engine.deepspeed: DeepSpeed knows no setting '{key}'", did_you_mean(key, self.known)
                )
                raise shared(unknown)


def engine_config(spec: Spec, ranks: Ranks) -> dict[str, Any]:
    """DeepSpeed's settings for a spec."""
    engine = spec.engine
    # Else stage 3 replaces torch's linear function for good, the teachers' and later runs' too.
    zero = {"stage": engine.zero_stage, "memory_efficient_linear": False, **_offload(engine.offload)}
    config = {
        "train_micro_batch_size_per_gpu": images_at_once(spec.train.batch_size, engine, ranks.size),
        "gradient_accumulation_steps": engine.accumulate,
        "gradient_clipping": spec.optimizer.clip,  # left out, DeepSpeed would clip at 1
        "zero_allow_untested_optimizer": True,  # those that would go wrong were refused
        "zero_force_ds_cpu_optimizer": False,  # offloading is no reason to replace the optimizer
        "torch_autocast": {
            "enabled": spec.train.precision != "float32",
            "dtype": spec.train.precision if spec.train.precision != "float32" else "bfloat16",
        },
        "steps_per_print": None,
    }
    passed = {key: value for key, value in engine.deepspeed.items() if key != "zero_optimization"}
    return {
        **config,
        **passed,
        "zero_optimization": zero | engine.deepspeed.get("zero_optimization", {}),
    }


def _offload(what: str) -> dict[str, Any]:
    place = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "none": {},
        "optimizer": {"offload_optimizer": place},
        "all": {"offload_optimizer": place, "offload_param": place},
    }[what]


def _parameters_used_outside(distiller: Distiller) -> list[nn.Parameter]:
    """What belongs to modules that are never called themselves; stage 3 must gather it for the whole pass.

    Position embeddings and class tokens belong to the network, whose forward pass is ours, not its own.
    """
    modules = uncalled_modules(distiller.student).values()
    return [parameter for module in modules for parameter in module.parameters(recurse=False)]
