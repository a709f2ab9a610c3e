"""Teachers and students as a run's spec names them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SpecModel:
    """A teacher or student, as a spec names it; of any version of leapcore, so that unknown keys do no harm.

    Attributes:
        backbone: The family.
        model: The model, None where the spec names none.
        weights: ``none``, ``pretrained``, or where they are.
        options: The model's arguments.
    """

    backbone: str = ""
    model: str | None = None
    weights: str = "none"
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The model's, its family's where the spec names none."""
        return self.model or self.backbone

    @property
    def start(self) -> str:
        """Its weights before training."""
        known = {"none": "random weights", "pretrained": "its published weights"}
        return known.get(self.weights, f"the weights {self.weights}")

    @property
    def described(self) -> str:
        """Name and weights."""
        return f"{self.name} with {self.start}"
