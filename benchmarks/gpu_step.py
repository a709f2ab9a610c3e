"""What ``gpu.py`` needs: the real engine on images that lie on the device, and a clock for its steps."""

from __future__ import annotations

import functools
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from statistics import mean, median
from typing import Any, NamedTuple

import torch

from leapcore import Spec, load_spec
from leapcore.core.schedulers import DifficultyScheduler
from leapcore.data.loading import Batch
from leapcore.distributed.ranks import join
from leapcore.plugins.dispatch import Events
from leapcore.train.build import build
from leapcore.train.loop import Loop
from leapcore.train.parts import RunParts

RECIPE = "leap-vits14-imagenet1k"
PARTS = ("teacher", "student", "alignment", "optimizer")


class Scale(NamedTuple):
    """How large the models are, and how many steps are taken.

    Attributes:
        image_size: Side of the images, in pixels.
        precision: As the spec's ``train.precision``.
        teacher_options: Arguments of the teacher's model.
        student_options: Arguments of the student's model.
        warmup: Steps at a target block before any is timed.
        groups: Groups of steps that are timed; the median is over these.
        steps: Steps of a group.
        matrix: Side of the matrices whose product is timed.
    """

    image_size: int = 224
    precision: str = "bfloat16"
    teacher_options: str = "{}"
    student_options: str = "{}"
    warmup: int = 4
    groups: int = 5
    steps: int = 4
    matrix: int = 8192


TINY = Scale(
    image_size=56,
    precision="float32",
    teacher_options="{depth: 8, embed_dim: 96, num_heads: 2}",
    student_options="{depth: 2, embed_dim: 48, num_heads: 2}",
    warmup=1,
    groups=2,
    steps=1,
    matrix=256,
)


# The sizes of the comparison with other libraries (benchmarks/peers), fit for a CPU.
SMALL = Scale(
    image_size=56,
    precision="float32",
    teacher_options="{patch_size: 7, depth: 12, embed_dim: 192, num_heads: 3, reg_tokens: 4}",
    student_options="{patch_size: 7, depth: 6, embed_dim: 96, num_heads: 3}",
    warmup=2,
    groups=9,
    steps=1,
    matrix=1024,
)


class Sent(DifficultyScheduler):
    """A run's scheduler that goes where it is sent; when to score, and how, is left to the real one.

    Args:
        real: The scheduler that the spec names.

    Attributes:
        wanted: The target that the next step ends with, as an index.
        scored: Whether the alignment is measured at all.
    """

    def __init__(self, real: DifficultyScheduler) -> None:
        super().__init__(real.num_layers)
        self._real = real
        self.run, self.alignment, self.sample_images = real.run, real.alignment, real.sample_images
        self.target = self.wanted = real.target = 0
        self.scored = True

    @property
    def wants_score(self) -> bool:
        return self.scored and self._real.wants_score

    def step(self, score: float | None) -> bool:
        self._real.step(score)
        moved = self.target != self.wanted
        self.target = self._real.target = self.wanted
        self.reason = "sent"
        return moved


def bench_spec(teacher: str, scale: Scale, batch_size: int, overrides: Sequence[str]) -> Spec:
    """The paper's recipe with random weights, on images that need no file.

    Raises:
        LeapcoreError: An override is wrong.
    """
    own = [
        f"teacher={{backbone: vit, model: {teacher}, weights: none, options: {scale.teacher_options}}}",
        f"student.options={scale.student_options}",
        f"data={{source: digits, image_size: {scale.image_size}, workers: 0}}",  # never read
        "optimizer.lr=0.01",  # costs the same, and random teachers cannot make it diverge
        f"train.precision={scale.precision}",
        f"train.batch_size={batch_size}",
        "train.duration=100000st",
        "evaluate={knn: never, linear: never}",
    ]
    return load_spec(RECIPE, [*own, *overrides])


class OneBatch:
    """Stands in for a run's batches: the same random one again and again, on the device.

    Args:
        parts: The run.
    """

    def __init__(self, parts: RunParts) -> None:
        self.skipped = parts.batches.skipped
        count, side = parts.spec.train.batch_size, parts.spec.data.image_size
        pixels = torch.randint(256, (count, 3, side, side), dtype=torch.uint8)
        nothing_cached = torch.empty(count, 0, dtype=torch.uint8)
        self._batch = Batch(pixels.to(parts.device), torch.zeros(count, dtype=torch.long), [], nothing_cached)

    def after(self, steps: int) -> Iterator[Batch]:
        return itertools.repeat(self._batch)


class Spans:
    """When the parts of a step begin and end: on a GPU in its own time, so that nothing waits for it.

    Where the GPU waits for the host within a part, that counts as the part's.

    Args:
        device: Where the steps are computed.
    """

    def __init__(self, device: torch.device) -> None:
        self._gpu = device.type == "cuda"
        self._begun: dict[str, Any] = {}
        self._ended: list[tuple[str, Any, Any]] = []

    def begin(self, name: str) -> None:
        self._begun[name] = self._now()

    def end(self, name: str) -> None:
        self._ended.append((name, self._begun.pop(name), self._now()))

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, each of its calls a span."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self.begin(name)
            try:
                return function(*args, **kwargs)
            finally:
                self.end(name)

        return timed

    def take(self) -> dict[str, float]:
        """Seconds by name, and forget them; the device must have finished."""
        found: dict[str, float] = defaultdict(float)
        for name, begin, end in self._ended:
            found[name] += begin.elapsed_time(end) / 1000 if self._gpu else end - begin
        self._ended = []
        return found

    def _now(self) -> Any:
        if not self._gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Peak(Events):
    """Listens for the most memory that a GPU's tensors took; the loop resets its counter at each report."""

    bytes = 0.0

    def metrics(self, step: int, metrics: dict[str, Any]) -> None:
        self.bytes = max(self.bytes, 1e9 * metrics.get("peak_memory_gb", 0.0))


class Bench:
    """A run that takes as many steps as it is told, at the target block that it is told.

    Args:
        spec: From :func:`bench_spec`.
        scale: How many steps are timed.

    Attributes:
        parts: The run.
        depth: How many blocks the teacher has.

    Raises:
        LeapcoreError: The spec cannot be built.
    """

    def __init__(self, spec: Spec, scale: Scale) -> None:
        self.parts, self._scale = build(spec, join()), scale
        self.parts.batches = OneBatch(self.parts)  # type: ignore[assignment]
        (self._teacher,) = self.parts.teachers
        self.depth = len(self._teacher.provider.layers)
        self._teacher.scheduler = self._sent = Sent(self._teacher.scheduler)
        self._spans = Spans(self.parts.device)
        self._watch()
        self._peak = Peak()
        self._loop = Loop(self.parts, self._peak)

    def measure(self, block: int, *, scored: bool = True, allowed: float) -> dict[str, Any]:
        """Steps at a target block (1-based), as many as fit into ``allowed`` seconds, at least one group.

        Returns:
            Seconds per step, by part too; FLOPs per step and those of a baseline step; bytes at the peak
            and after the last step, None without a GPU.
        """
        deadline = time.perf_counter() + allowed
        self._go(block, scored=scored)
        ledger, scale = self.parts.ledger, self._scale
        spent, baseline, groups = ledger.spent, ledger.baseline, list[float]()
        while not groups or (len(groups) < scale.groups and time.perf_counter() < deadline):
            groups.append(self._timed(scale.steps))
        steps = len(groups) * scale.steps
        return {
            "block": block,
            "scored": scored,
            "steps": steps,
            "seconds": median(groups),
            "seconds_by_group": groups,
            "parts": self._parts(mean(groups), steps),
            "flops": (ledger.spent - spent) / steps,
            "baseline_flops": (ledger.baseline - baseline) / steps,
            "peak_bytes": self._peak.bytes or None,
            "resident_bytes": torch.cuda.memory_allocated() if self.parts.device.type == "cuda" else None,
        }

    def step(self) -> None:
        """One step at the present target block."""
        self._take(1)

    def _go(self, block: int, *, scored: bool) -> None:
        """Move the target as a curriculum does, at a step's end, and warm up there."""
        self._sent.wanted, self._sent.scored = block - 1, scored
        self._take(1)
        self._peak.bytes = 0.0
        self._take(self._scale.warmup)
        synchronize(self.parts.device)
        self._spans.take()

    def _timed(self, steps: int) -> float:
        """Seconds per step of a group, which runs as asynchronously as ever between its ends."""
        synchronize(self.parts.device)
        started = time.perf_counter()
        self._take(steps)
        synchronize(self.parts.device)
        return (time.perf_counter() - started) / steps

    def _take(self, steps: int) -> None:
        self.parts.length = self.parts.length._replace(total_steps=self._loop.step + steps)
        self._loop.fit()
        if self._loop.stopped:
            raise KeyboardInterrupt

    def _parts(self, step: float, steps: int) -> dict[str, float]:
        """Seconds per step by part, of steps that took ``step`` seconds on average."""
        spans = self._spans.take()
        found = {name: spans[name] / steps for name in PARTS}
        return {**found, "rest": step - sum(found.values())}

    def _watch(self) -> None:
        """Let the parts of a step tell when they begin and end."""
        spans, teacher, engine = self._spans, self._teacher, self.parts.engine
        teacher.features = spans.around("teacher", teacher.features)  # type: ignore[method-assign]
        if teacher.alignment:
            teacher.alignment = spans.around("alignment", teacher.alignment)
        engine.backward = spans.around("student", engine.backward)  # type: ignore[method-assign]
        engine.step = spans.around("optimizer", engine.step)  # type: ignore[method-assign]
        engine.module.register_forward_pre_hook(lambda *_: spans.begin("student"))
        engine.module.register_forward_hook(lambda *_: spans.end("student"))


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def product_rate(device: torch.device, scale: Scale) -> float:
    """FLOPs per second of a square matrix product in the precision of the steps."""
    kind, side = getattr(torch, scale.precision), scale.matrix
    a, b = torch.randn(2, side, side, device=device).to(kind)
    result, seconds = torch.empty_like(a), []
    for _ in range(6):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(50):
            torch.mm(a, b, out=result)
        synchronize(device)
        seconds.append((time.perf_counter() - started) / 50)
    return 2 * side**3 / median(seconds[1:])  # the first group warms up
