"""Lines that tell of a run: in the terminal while it runs, and to whoever watches its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from leapcore.plugins.events import figure_name

_FORMS = {
    "loss": "loss {:.4f}",
    "images_per_second": "{:,.0f} images/s",
    "data_wait": "wait {:.0%}",
    "flops_saved": "FLOPs saved {:.1%}",
}
_LENGTHY = ("images_per_second", "data_wait")
ACCURACIES = {"knn": "kNN accuracy", "linear": "linear probe accuracy"}


@dataclass(frozen=True)
class Course:
    """What a line needs to know of its run, as ``start.json`` tells it; all of it may be missing.

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

    def step(self, step: int) -> str:
        """``step   374``, as wide as the last one."""
        return f"step {step:>{len(f'{self.total_steps:,}')},}"

    def targets(self, targets: Mapping[str, int]) -> str:
        """``layer 3/12``; of several teachers ``layer 3/12, 1/24``."""
        told = (f"{layer}/{self.layers.get(name) or '?'}" for name, layer in targets.items())
        return "layer " + ", ".join(told)

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
        told = [f"alignment {alignment}"] * bool(alignment)
        told += [
            form.format(metrics[key])
            for key, form in _FORMS.items()
            if isinstance(metrics.get(key), int | float) and not (brief and key in _LENGTHY)
        ]
        return "  ".join(told)

    def change(self, event: Mapping[str, Any]) -> str:
        """A change of target: when, from where to where, why, and what was saved so far."""
        name = event.get("teacher", "teacher")
        whose = f"{name}: " if len(self.layers) > 1 else ""
        if not event["previous"]:
            return f"{whose}starts at layer {event['target']} of {self.layers.get(name) or '?'}"
        reason, alignment = event["reason"], event.get("alignment")
        if alignment is not None and "alignment" not in reason:
            reason += f", alignment {alignment:.3f}"
        moved = f"{whose}layer {event['previous']:>2} -> {event['target']:>2}"
        saved = event.get("flops_saved")
        told = "" if saved is None else f"saved {saved:.1%}"
        return f"{self.step(event['step'])}  {moved}  {reason:<37}  {told}".rstrip()


def clock(seconds: float) -> str:
    """``0:01:40``."""
    return str(timedelta(seconds=round(seconds)))


def evaluation(metrics: Mapping[str, Any]) -> str:
    """``kNN accuracy 97.22%``; empty where figures hold none."""
    return ", ".join(f"{label} {metrics[key]:.2%}" for key, label in ACCURACIES.items() if key in metrics)
