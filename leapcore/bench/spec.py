"""The spec of a benchmark: one YAML file that says which runs it has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema, field_validator, model_validator

from leapcore.errors import SpecError, did_you_mean
from leapcore.spec import BackboneSpec
from leapcore.spec.section import Name, Section
from leapcore.spec.text import read_text, spec_error

AXES = ("teachers", "students", "methods")

_Names = Annotated[
    list[str],
    BeforeValidator(lambda names: [names] if isinstance(names, str) else names),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
_Seed = Annotated[int, Field(ge=0)]
_Seeds = Annotated[list[_Seed], Field(min_length=1)]


class WhereSpec(Section):
    """Some cells of the matrix: one name or several of each axis; an axis left out means all of it."""

    teacher: _Names = Field([], description="Names of teachers; none means all.")
    student: _Names = Field([], description="Names of students; none means all.")
    method: _Names = Field([], description="Names of methods; none means all.")

    def holds(self, *names: str) -> bool:
        """Whether a cell of this teacher, student and method is among them."""
        axes = (self.teacher, self.student, self.method)
        return all(not chosen or name in chosen for chosen, name in zip(axes, names, strict=True))


class ExceptionSpec(Section):
    """What is different in some cells; of several that fit, the later one decides."""

    where: WhereSpec = Field(description="The cells.")
    set: dict[str, Any] = Field({}, description="Keys of a run's spec, laid over the method's.")
    seeds: _Seeds | None = Field(None, description="Their seeds, in place of the matrix's; null keeps those.")
    skip: bool | None = Field(
        None, description="true leaves them out, false takes them in again; null leaves it at that."
    )


class BenchSpec(Section):
    """A matrix of runs: every teacher with every student, by every method, with every seed."""

    name: Name = Field(description="Names the output folder, bench/<name>.")
    base: str | None = Field(
        None, description="A run's spec (a file) or a recipe that all runs start from; null for none."
    )
    shared: dict[str, Any] = Field({}, description="Sections of a run's spec, laid over the base.")
    teachers: dict[Name, BackboneSpec] = Field(description="Teachers, by names of your own.", min_length=1)
    students: dict[Name, BackboneSpec] = Field(description="Students, by names of your own.", min_length=1)
    methods: dict[Name, dict[str, Any]] = Field(
        description="Methods, by names of your own: sections of a run's spec, laid over the shared ones.",
        min_length=1,
    )
    seeds: _Seeds = Field([0], description="Each cell is run once with each.")
    baseline: Name | None = Field(
        None, description="The method that the report compares the others with; null for none."
    )
    exceptions: list[ExceptionSpec] = Field([], description="What is different in some cells.")

    @field_validator(*AXES)
    @classmethod
    def _files_apart(cls, named: dict[str, Any]) -> dict[str, Any]:
        """Names become folders, which some file systems tell apart only by more than capitals."""
        seen: dict[str, str] = {}
        for name in named:
            other = seen.setdefault(name.casefold(), name)
            if other != name:
                raise ValueError(f"'{other}' and '{name}' would have one folder: choose another name")
        return named

    @field_validator("seeds")
    @classmethod
    def _once(cls, seeds: list[int]) -> list[int]:
        twice = sorted({seed for seed in seeds if seeds.count(seed) > 1})
        if twice:
            raise ValueError(f"two cells would have the same name: seed {twice[0]} comes twice")
        return seeds

    @model_validator(mode="after")
    def _known(self) -> BenchSpec:
        for where, axis, name in self._mentioned():
            if name not in getattr(self, axis):
                raise ValueError(f"{where}: '{name}' is none of the {axis}. {_near(name, self, axis)}")
        return self

    def _mentioned(self) -> Iterator[tuple[str, str, str]]:
        if self.baseline is not None:
            yield "baseline", "methods", self.baseline
        for place, exception in enumerate(self.exceptions):
            for axis in AXES:
                for name in getattr(exception.where, axis[:-1]):
                    yield f"exceptions.{place}.where.{axis[:-1]}", axis, name

    def seeds_of(self, *names: str) -> Sequence[int]:
        """The seeds of a teacher, student and method; none if they are left out."""
        seeds, left_out = self.seeds, False
        for exception in self.exceptions:
            if exception.where.holds(*names):
                left_out = left_out if exception.skip is None else exception.skip
                seeds = exception.seeds or seeds
        return [] if left_out else seeds


def _near(name: str, bench: BenchSpec, axis: str) -> str:
    return did_you_mean(name, getattr(bench, axis))


def load_bench(source: str) -> BenchSpec:
    """Read the spec of a benchmark.

    Raises:
        SpecError: It cannot be read, or something in it is wrong; all faults are listed.
    """
    text = read_text(source)
    if "student" in text.keys and "students" not in text.keys:
        raise SpecError(
            f"{source} is the spec of a single run", f"Run it with: leapcore run {source}. See docs/bench.md."
        )
    try:
        return BenchSpec.model_validate(text.keys)
    except ValidationError as error:
        raise spec_error(text, BenchSpec, (), error, "The keys and their meaning: docs/bench.md") from error
