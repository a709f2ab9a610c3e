"""What is handed to DeepSpeed, against the reference code's numbers (golden/lightly_defaults.json)."""

import pytest
import torch
from torch import nn

from leapcore import load_spec
from leapcore.engine.deepspeed import engine_config
from leapcore.engine.optimizers import build_optimizer, peak_lr
from leapcore.engine.ranks import Ranks


def _spec(*overrides):
    return load_spec("quickstart", ["optimizer.clip=1", *overrides])


def test_the_rate_scales_with_the_square_root_of_the_batch(golden):
    for case in golden("lightly_defaults")["lr_scaling"]:
        batch = f"train.batch_size={case['global_batch']}"
        spec = _spec(f"optimizer.lr={case['lr']}", "optimizer.reference_batch=1536", batch)
        assert peak_lr(spec) == pytest.approx(case["peak"], rel=1e-6)
    assert peak_lr(_spec("optimizer.lr=0.5")) == 0.5


def test_lars_takes_the_same_steps_as_the_reference(golden):
    for case in golden("lightly_defaults")["lars"]:
        module = nn.Module()
        module.weight = nn.Parameter(torch.tensor(case["w0"]))
        spec = _spec("optimizer.name=lars", f"optimizer.weight_decay={case['weight_decay']}")
        optimizer = build_optimizer(module, spec.optimizer, case["lr"])
        for gradient, expected in zip(case["grads"], case["w_after_each_step"], strict=True):
            module.weight.grad = torch.tensor(gradient)
            optimizer.step()
            assert torch.allclose(module.weight, torch.tensor(expected), atol=1e-6)


def test_norms_biases_and_embeddings_do_not_decay(vit):
    provider = vit(reg_tokens=4)
    optimizer = build_optimizer(provider, _spec("optimizer.name=lars").optimizer, 1.0)
    decays = {id(p): group["weight_decay"] > 0 for group in optimizer.param_groups for p in group["params"]}
    found = {name: decays[id(parameter)] for name, parameter in provider.named_parameters()}
    for name, decayed in found.items():
        assert decayed == (name.endswith("weight") and "norm" not in name), name
    assert not found["model.pos_embed"]
    assert not found["model.reg_token"]


def test_clipping_is_always_written_down():
    assert engine_config(_spec("optimizer.clip=0"), Ranks())["gradient_clipping"] == 0
