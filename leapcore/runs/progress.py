"""A run's progress as lines of text: in its own terminal, and for whoever watches its files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from leapcore.plugins.events import RunStart, TargetChange, figure_name

_FORMS = {
    "loss": "loss {:.4f}",
    "images_per_second": "{:,.0f} images/s",
    "data_wait": "wait {:.0%}",
    "flops_saved": "FLOPs saved {:.1%}",
}
_LENGTHY = ("images_per_second", "data_wait")
ACCURACY_LABELS = {"knn": "kNN accuracy", "linear": "linear probe accuracy"}


@dataclass(frozen=True)
class ProgressLines:
    """Writes lines on a run's progress, as far as it is known what the run is to do.

    Attributes:
        total_steps: Planned number of steps, 0 where it is not known.
        layers: How many each teacher has, by name.
        deepest: The deepest layer that each curriculum may choose, counted from 1.
        thresholds: The alignment that each curriculum waits for.
    """

    total_steps: int = 0
    layers: Mapping[str, int] = field(default_factory=lambda: {"teacher": 0})
    deepest: Mapping[str, int] = field(default_factory=dict)
    thresholds: Mapping[str, float | None] = field(default_factory=dict)

    @classmethod
    def from_event(cls, start: RunStart) -> ProgressLines:
        """Of a run that is about to take its first step."""
        layers = {name: facts.layers for name, facts in start.teachers.items()}
        return cls(start.total_steps, layers, start.deepest, start.thresholds)

    @classmethod
    def from_file(cls, start: Mapping[str, Any]) -> ProgressLines:
        """As ``start.json`` says; nothing is known where it is missing or of an earlier version."""
        try:
            layers = {name: model["layers"] for name, model in start["teachers"].items()}
            return cls(start["total_steps"], layers, start["deepest"], start["thresholds"])
        except (KeyError, TypeError, AttributeError):
            return cls()

    def step(self, step: int) -> str:
        """``step   374``, as wide as the last one."""
        return f"step {step:>{len(f'{self.total_steps:,}')},}"

    def targets(self, targets: Mapping[str, int]) -> str:
        """``layer 3/12``; of several teachers ``layer 3/12, 1/24``."""
        layers = (f"{layer}/{self.layers.get(name) or '?'}" for name, layer in targets.items())
        return "layer " + ", ".join(layers)

    def targets_in(self, metrics: Mapping[str, Any]) -> dict[str, int]:
        """Each teacher's target layer among figures."""
        keys = {name: figure_name("target_layer", name, self.layers) for name in self.layers}
        return {name: metrics[key] for name, key in keys.items() if key in metrics}

    def alignment(self, metrics: Mapping[str, Any]) -> str:
        """``0.912/0.950``: where the curriculum waits for a threshold, its average against that."""
        return ", ".join(filter(None, (self._alignment(name, metrics) for name in self.layers)))

    def _alignment(self, name: str, metrics: Mapping[str, Any]) -> str:
        score, average, layer = (
            metrics.get(figure_name(figure, name, self.layers))
            for figure in ("alignment", "alignment_average", "target_layer")
        )
        if average is None or layer is None or layer >= self.deepest.get(name, 0):
            return "" if score is None else f"{score:.3f}"
        threshold = self.thresholds.get(name)
        return f"{average:.3f}" if threshold is None else f"{average:.3f}/{threshold:.3f}"

    def figures(self, metrics: Mapping[str, Any], *, brief: bool = False) -> str:
        """Alignment, loss and FLOPs saved so far; if not brief, speed and the share of it spent waiting."""
        alignment = self.alignment(metrics)
        parts = [f"alignment {alignment}"] * bool(alignment)
        parts += [
            form.format(metrics[key])
            for key, form in _FORMS.items()
            if isinstance(metrics.get(key), int | float) and not (brief and key in _LENGTHY)
        ]
        return "  ".join(parts)

    def change(self, change: TargetChange) -> str:
        """A change of target: when, from where to where, why, and what was saved so far."""
        whose = f"{change.teacher}: " if len(self.layers) > 1 else ""
        if not change.previous:
            return f"{whose}starts at layer {change.target} of {self.layers.get(change.teacher) or '?'}"
        reason = change.reason
        if change.alignment is not None and "alignment" not in reason:
            reason += f", alignment {change.alignment:.3f}"
        moved = f"{whose}layer {change.previous:>2} -> {change.target:>2}"
        saved = "" if math.isnan(change.flops_saved) else f"saved {change.flops_saved:.1%}"
        return f"{self.step(change.step)}  {moved}  {reason:<37}  {saved}".rstrip()


def clock(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> clock(100.4)
    '0:01:40'
    """
    return str(timedelta(seconds=round(seconds)))


def accuracy_text(metrics: Mapping[str, Any]) -> str:
    """The accuracies among figures; empty where there is none.

    >>> accuracy_text({"loss": 0.5, "knn": 0.97222})
    'kNN accuracy 97.22%'
    """
    return ", ".join(
        f"{label} {metrics[key]:.2%}" for key, label in ACCURACY_LABELS.items() if key in metrics
    )
