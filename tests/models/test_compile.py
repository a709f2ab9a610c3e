import pytest
import torch
from shared import built

from leapcore import load_spec
from leapcore.errors import SpecError
from leapcore.models import compile as compiling
from leapcore.train.loop import Loop

SHORT = [
    "train.duration=6st",
    "train.batch_size=16",
    "curriculum={scheduler: steps, at: {0st: 1, 2st: 2, 4st: 3}}",
    "evaluate={knn: never, linear: never, teacher: false}",
    "student.options={patch_size: 8, embed_dim: 24, depth: 2, num_heads: 3}",
]


def _losses(*options):
    loop = Loop(built(load_spec("quickstart", [*SHORT, *options])))
    loop.fit()
    return loop.metrics.state_dict()


def test_compiled_blocks_learn_the_same_and_a_moving_target_compiles_nothing_anew():
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = [step["loss"] for step in _losses("engine.compile=true")]
    # One variant for all the teacher's blocks, one for the student's, and the trial of the compiler.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3
    assert compiled == pytest.approx([step["loss"] for step in _losses()], rel=1e-4)


def test_a_machine_without_a_compiler_is_told_so(monkeypatch):
    def broken(*_args, **_options):
        raise RuntimeError("No working C++ compiler found")

    monkeypatch.setattr(torch, "compile", broken)
    provider = built(load_spec("quickstart", SHORT)).student
    with pytest.raises(SpecError, match=r"engine.compile: .* No working C\+\+ compiler found") as caught:
        compiling.compile_blocks(provider, torch.device("cpu"))
    assert "g++" in caught.value.remedy


def test_zero_stage_3_takes_no_compiled_blocks():
    with pytest.raises(SpecError, match="compile needs zero_stage: 2 or less"):
        load_spec("quickstart", ["engine.compile=true", "engine.zero_stage=3"])


def test_a_cache_takes_no_compiled_blocks():
    cached = ["objective.mixup=false", "cache.folder=features"]
    with pytest.raises(SpecError, match=r"cache\.folder goes without engine\.compile"):
        load_spec("quickstart", ["engine.compile=true", *cached])
