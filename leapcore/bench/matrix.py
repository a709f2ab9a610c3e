"""From the spec of a benchmark to the specs of its runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ruamel.yaml.comments import CommentedMap

from leapcore.bench.spec import BenchSpec
from leapcore.errors import LeapcoreError, SpecError
from leapcore.spec import Spec
from leapcore.spec.file import spec_of
from leapcore.spec.text import SpecText, read_text

_OWN = ("name", "teacher", "teachers", "student")  # of a base, which the matrix takes the place of


Names = tuple[str, str, str]  # of teacher, student and method


class Cell(NamedTuple):
    """One run of the matrix.

    Attributes:
        teacher: The teacher's name in the matrix.
        student: The student's.
        method: The method's.
        seed: The run's ``train.seed``.
        spec: The run.
    """

    teacher: str
    student: str
    method: str
    seed: int
    spec: Spec

    @property
    def name(self) -> str:
        """``teacher.student.method.s0``; no part of it has a dot."""
        return self.spec.name


def cells(bench: BenchSpec, overrides: Sequence[str] = ()) -> list[Cell]:
    """All runs, seed by seed: what is compared runs side by side, and a first picture comes early.

    Args:
        bench: The matrix.
        overrides: ``"section.key=value"`` each, applied to every run.

    Raises:
        SpecError: There is no cell, or specs are wrong; all faults are listed with their cells.
    """
    sound, faults = list[Cell](), dict[Fault, list[str]]()
    base = _base(bench)
    for names, seed in _combinations(bench):
        label = cell_name(*names, seed)
        try:
            sound.append(Cell(*names, seed, _spec(bench, base, names, seed, overrides)))
        except LeapcoreError as error:
            fault = Fault(error.cause.replace(f"{label}: ", ""), error.remedy)
            faults.setdefault(fault, []).append(label)
    if faults:
        raise SpecError(*_described(faults, len(sound)))
    if not sound:
        raise SpecError(f"the matrix of '{bench.name}' has no cell", "Its exceptions skip all of them.")
    return sound


class Fault(NamedTuple):
    """What is wrong in one or several cells."""

    cause: str
    remedy: str


def cell_name(teacher: str, student: str, method: str, seed: int) -> str:
    """How a cell, its folder and its run are called."""
    return f"{teacher}.{student}.{method}.s{seed}"


def _combinations(bench: BenchSpec) -> Iterator[tuple[Names, int]]:
    combinations = [(t, s, m) for t in bench.teachers for s in bench.students for m in bench.methods]
    seeds = {names: bench.seeds_of(*names) for names in combinations}
    for seed in dict.fromkeys(seed for some in seeds.values() for seed in some):
        yield from ((names, seed) for names in combinations if seed in seeds[names])


def _base(bench: BenchSpec) -> Mapping[str, Any]:
    base = {} if bench.base is None else dict(read_text(bench.base).keys)
    return merged({key: value for key, value in base.items() if key not in _OWN}, bench.shared)


def _spec(
    bench: BenchSpec, base: Mapping[str, Any], names: Names, seed: int, overrides: Sequence[str]
) -> Spec:
    teacher, student, method = names
    label = cell_name(teacher, student, method, seed)
    own = {
        "name": label,
        "teacher": bench.teachers[teacher].model_dump(),
        "student": bench.students[student].model_dump(),
        "train": {"seed": seed},
    }
    keys = merged(merged(base, bench.methods[method]), own)
    for exception in bench.exceptions:
        if exception.where.holds(*names):
            keys = merged(keys, exception.set)
    return spec_of(SpecText(label, CommentedMap(keys), set()), overrides)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """One mapping laid over another, section by section; another scheduler takes over no option."""
    result = dict(below)
    for key, value in above.items():
        whole = not isinstance(value, dict) or not isinstance(result.get(key), dict) or "scheduler" in value
        result[key] = value if whole else merged(result[key], value)
    return result


def _described(faults: dict[Fault, list[str]], sound: int) -> tuple[str, str]:
    """Cause and remedy of all."""
    lines = [f"{_whose(labels)}: {fault.cause}" for fault, labels in faults.items()]
    remedies = dict.fromkeys(fault.remedy for fault in faults if fault.remedy)
    cause = f"nothing was run; {sound} cells are sound, others are not:\n" + "\n".join(lines)
    return cause, "\n".join(remedies)


def _whose(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
    return f"cell {labels[0]}{more}"
