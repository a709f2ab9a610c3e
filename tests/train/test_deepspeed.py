"""What is handed to DeepSpeed, against the reference code's numbers (golden/lightly_defaults.json)."""

import pytest
import torch
from shared import built
from torch import nn

from leapcore import load_spec
from leapcore.distributed.place import Place
from leapcore.distributed.ranks import Ranks
from leapcore.errors import SpecError
from leapcore.train.deepspeed import engine_config
from leapcore.train.optimizers import build_optimizer, peak_lr
from leapcore.train.zero_state import whole_weights


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


def test_a_batch_is_shared_out_evenly_or_refused():
    two = Ranks(Place(0, 0, 2))
    assert engine_config(_spec("engine.accumulate=4"), two)["train_micro_batch_size_per_gpu"] == 8
    with pytest.raises(SpecError, match=r"64 images cannot be shared out evenly among 2 processes"):
        engine_config(_spec("engine.accumulate=3"), two)


def test_other_settings_are_passed_on():
    passed = "engine.deepspeed={wall_clock_breakdown: true, zero_optimization: {overlap_comm: false}}"
    config = engine_config(_spec("engine.zero_stage=2", "engine.offload=optimizer", passed), Ranks())
    assert config["wall_clock_breakdown"]
    zero = config["zero_optimization"]
    assert (zero["stage"], zero["overlap_comm"]) == (2, False)
    assert zero["offload_optimizer"]["device"] == "cpu"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("engine.deepspeed={gradient_clipping: 1}", "is what optimizer.clip says"),
        ("engine.deepspeed={zero_optimization: {stage: 1}}", "is what engine.zero_stage says"),
        ("engine.deepspeed={fp16: {enabled: true}}", "is what train.precision says"),
        ("engine.offload=optimizer", "offload needs zero_stage: 1 or more"),
        ("engine={offload: all, zero_stage: 2}", "offload: all needs zero_stage: 3"),
        ("engine={accumulate: 2}", "sigreg looks at a whole batch"),
        ("engine={zero_stage: 1}", "float16 with engine.zero_stage needs optimizer.clip: 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(override, told):
    with pytest.raises(SpecError, match=told):
        _spec("objective.sigreg=0.1", "train.precision=float16", override)


@pytest.mark.parametrize(
    ("passed", "told"),
    [
        ("{gradient_cliping: 1}", "knows no setting 'gradient_cliping'\nDid you mean 'gradient_clipping'?"),
        ("{zero_optimization: {stage3_foo: 1}}", "DeepSpeed refuses these settings: .*stage3_foo"),
        ("{elasticity: {}}", "DeepSpeed refuses these settings: Elastic training has been removed"),
    ],
)
def test_settings_that_deepspeed_does_not_take_are_named(passed, told):
    with pytest.raises(SpecError, match=told):
        built(_spec(f"engine.deepspeed={passed}"))


ELEMENTWISE = {"adamw": True, "sgd": True, "lion": True, "adan": True, "nadamw": True} | dict.fromkeys(
    ("lars", "lamb", "muon", "adafactor", "novograd", "adamp", "cadamw", "larc"), False
)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_zero_takes_the_optimizers_whose_steps_do_not_change_when_weights_are_cut(name):
    module = nn.Linear(4, 4)
    spec = _spec(f"optimizer.name={name}")
    if ELEMENTWISE[name]:
        build_optimizer(module, spec.optimizer, 0.1, zero_stage=1)
    else:
        with pytest.raises(SpecError, match=f"'{name}' looks at whole layers"):
            build_optimizer(module, spec.optimizer, 0.1, zero_stage=1)
    build_optimizer(module, spec.optimizer, 0.1, zero_stage=0)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_step_that_is_held_changes_nothing_and_the_next_one_goes_on(stage):
    def trained(held):
        """The weights after three steps, with a step of other gradients held back in between."""
        parts = built(_spec(f"engine.zero_stage={stage}"))
        teacher, engine = parts.teachers[0], parts.engine
        pixels = torch.rand(4, 64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        for number, batch in enumerate(pixels):
            if number != 1 or held:
                engine.set_rate(1.0)
                engine.backward(
                    engine(batch, {"teacher": teacher.compute(teacher.scheduler.target, batch)}).loss
                )
                engine.step(hold=number == 1)
        return whole_weights(engine)

    ours, theirs = trained(held=True), trained(held=False)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
