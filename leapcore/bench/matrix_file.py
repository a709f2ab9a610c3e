"""``matrix.json``: which cells a benchmark has, as its folder notes it for its report."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class MatrixCell:
    """A cell of the matrix: which run it is."""

    name: str
    teacher: str
    student: str
    method: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class MatrixFile:
    """What belongs to a benchmark, in order.

    Attributes:
        name: The benchmark's.
        baseline: The method that the others are compared with, None for none.
        teachers: Their names in the matrix.
        students: Theirs.
        methods: Theirs.
        seeds: All that any cell has.
        families: The backbone family of each name, under ``teachers`` and ``students``.
        cells: The runs.
    """

    name: str = "bench"
    baseline: str | None = None
    teachers: list[str]
    students: list[str]
    methods: list[str]
    seeds: list[int] = field(default_factory=list)
    families: dict[str, dict[str, str]] = field(default_factory=dict)
    cells: list[MatrixCell]
