"""The regression guard: what is fast stays fast. ``make bench`` runs it, in about a minute.

First the parts one by one (pytest-benchmark prints them), then ratios of two times that were taken in turn,
each with a limit: such a ratio depends on the machine's speed little, and on the code a lot. A limit lies
about a quarter above what was measured when it was set, which is noted beside it (two cores of a Xeon,
one thread).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import pytest
import torch
from gpu_step import SMALL, Bench, bench_spec, product_rate
from torch import Tensor, nn

from leapcore import FlopsLedger, Projector, linear_cka
from leapcore.core.alignment_schedulers import CkaScheduler
from leapcore.data.views import seeded_view, training_view
from leapcore.spec import AugmentSpec

IMAGES, TOKENS, WIDTH, BLOCKS = 64, 64, 192, 12


def ratio(ours: Callable[[], Any], reference: Callable[[], Any], rounds: int = 7) -> float:
    """Median over rounds of our time over the reference's, one right after the other."""
    found = [_seconds(ours) / _seconds(reference) for _ in range(rounds + 1)]
    return median(found[1:])


def below(limit: float, measured: float) -> bool:
    """Whether it is; says both, which pytest shows with -rP."""
    print(f"measured {measured:.3f}, limit {limit}")
    return measured < limit


def _seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench(bench_spec("vit_tiny_patch16_224", SMALL, IMAGES, []), SMALL)


@pytest.fixture(scope="module")
def features() -> tuple[Tensor, Tensor]:
    x = torch.randn(IMAGES * TOKENS, WIDTH)
    return x, 0.3 * x + torch.randn(IMAGES * TOKENS, WIDTH)


# The parts


def test_part_alignment(benchmark: Any, features: tuple[Tensor, Tensor]) -> None:
    benchmark(linear_cka, *features)


@pytest.mark.parametrize("block", [1, 6, 12])
def test_part_teacher(benchmark: Any, bench: Bench, block: int) -> None:
    teacher, pixels = bench.parts.teachers[0], torch.rand(IMAGES, 3, 56, 56)
    benchmark(teacher.compute, block - 1, pixels)


def test_part_projector(benchmark: Any) -> None:
    projector, tokens = Projector(96, [WIDTH]), torch.randn(IMAGES, TOKENS, 96)
    benchmark(projector.heads[str(WIDTH)], tokens)


def test_part_scheduler_and_ledger(benchmark: Any) -> None:
    scheduler, ledger = CkaScheduler(BLOCKS, start="first", threshold=2.0), FlopsLedger(10**9, 10**8)

    def step() -> None:
        ledger.record_step(IMAGES, teacher_macs=10**9, alignment_macs=10**6)
        scheduler.step(0.5)

    benchmark(step)


def test_part_view(benchmark: Any) -> None:
    from PIL import Image

    view, image = training_view(56, AugmentSpec()), Image.new("RGB", (64, 64), "red")
    benchmark(seeded_view, view, image, 1)


# The ratios


def test_the_alignment_costs_a_few_matrix_products(features: tuple[Tensor, Tensor]) -> None:
    """It takes two and a half; centring reads everything a few times. Measured: 3.5."""
    x, y = features
    assert below(4.3, ratio(partial(linear_cka, x, y), lambda: x.T @ y, rounds=25))


def test_half_of_the_teacher_takes_half_of_the_time(bench: Bench) -> None:
    """Measured: 0.52."""
    teacher, pixels = bench.parts.teachers[0], torch.rand(IMAGES, 3, 56, 56)

    def until(block: int) -> None:
        teacher.compute(block - 1, pixels)

    assert below(0.58, ratio(partial(until, BLOCKS // 2), partial(until, BLOCKS)))


def test_a_step_is_its_models_and_little_else(bench: Bench) -> None:
    """Shares of a step at the middle block. Measured: alignment 1.8 %, the rest 1.1 %."""
    parts = bench.measure(BLOCKS // 2, allowed=60)["parts"]
    whole = sum(parts.values())
    assert below(0.025, parts["alignment"] / whole)
    assert below(0.02, parts["rest"] / whole)


def test_time_is_saved_as_flops_are(bench: Bench) -> None:
    """FLOPs saved over time saved, first block against last: small models are less efficient. 1.14."""
    first, last = (bench.measure(block, scored=False, allowed=60) for block in (1, BLOCKS))
    time_saved = 1 - first["seconds"] / last["seconds"]
    flops_saved = 1 - first["flops"] / last["flops"]
    assert below(1.25, flops_saved / time_saved)


def test_a_step_is_not_far_from_the_rate_of_matrix_products(bench: Bench) -> None:
    """Its rate over the step's. Measured: 1.7."""
    found = bench.measure(BLOCKS, scored=False, allowed=60)
    rate = found["flops"] / found["seconds"]
    assert below(2.2, product_rate(torch.device("cpu"), SMALL) / rate)


def test_the_engine_costs_little_more_than_a_plain_loop(bench: Bench) -> None:
    """The same teacher, student, losses and optimizer, with nothing around them. Measured: 1.02."""
    teacher, engine = bench.parts.teachers[0], bench.parts.engine
    pixels, weights = torch.rand(IMAGES, 3, 56, 56), list(engine.module.parameters())

    def plain() -> None:
        loss = engine.module(pixels, {teacher.name: teacher.compute(teacher.scheduler.target, pixels)}).loss
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        engine.optimizer.step()
        engine.optimizer.zero_grad()

    bench.measure(1, scored=False, allowed=0)  # where what is around it has the largest share
    assert below(1.1, ratio(bench.step, plain, rounds=11))


def test_help_starts_no_torch() -> None:
    """Against an interpreter that does nothing. Measured: 7."""
    python = partial(subprocess.run, [sys.executable, "-c", "pass"], check=True)
    help_ = [sys.executable, "-m", "leapcore", "--help"]
    shown = partial(subprocess.run, help_, check=True, capture_output=True)
    assert below(12, ratio(shown, python, rounds=5))
