from typing import Annotated

from annotated_types import Gt

from leapcore import DifficultyScheduler


class GeometricScheduler(DifficultyScheduler):
    """Each layer is the target ``ratio`` times as long as the one before it.

    Args:
        num_layers: How many layers the teacher has.
        ratio: Above 1 deep layers get more of the run, below 1 shallow ones.
    """

    def __init__(self, num_layers: int, *, ratio: Annotated[float, Gt(0)] = 1.5) -> None:
        super().__init__(num_layers)
        self.ratio = ratio
        self.steps = 0

    def start(self, scores):
        self.target = 0

    def step(self, score):
        self.steps += 1
        shares = [self.ratio**layer for layer in range(self.num_layers)]
        ends = [sum(shares[: layer + 1]) / sum(shares) for layer in range(self.num_layers)]
        done = self.steps / self.run.total_steps
        before, self.target = self.target, sum(done >= end for end in ends[:-1])
        self.reason = "its share is over"
        return self.target != before
