"""The spec: one YAML file that describes a run completely."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, ValidationError, model_validator

from leapcore.errors import SpecError
from leapcore.spec.data import DataSpec
from leapcore.spec.engine import CacheSpec, CheckpointSpec, EngineSpec, Listeners
from leapcore.spec.method import CurriculumSpec, EvaluateSpec, ObjectiveSpec
from leapcore.spec.models import BackboneSpec, TeacherSpec
from leapcore.spec.section import RUN_NAME, Name, Section
from leapcore.spec.training import OptimizerSpec, TrainSpec
from leapcore.spec.validation_errors import error_messages, remedy_for


class Spec(Section):
    """A whole run.

    Built in code, a section is a mapping. Files, and names that plugins register, are checked when the spec
    is run, or by :func:`leapcore.load_spec`.

    Raises:
        SpecError: A key is unknown or missing, or a value is wrong; all faults are listed.

    Example:
        >>> spec = Spec(
        ...     name="mine",
        ...     teacher={"backbone": "vit", "weights": "asset:digits-vit"},
        ...     student={"backbone": "vit", "model": "vit_tiny_patch16_224", "options": {"depth": 4}},
        ...     data={"source": "digits", "image_size": 32},
        ... )
        >>> spec.student.options, str(spec.train.duration)
        ({'depth': 4}, '100ep')
    """

    name: str = Field(pattern=RUN_NAME, description="Names the output folder, runs/<name>.")
    teacher: BackboneSpec | None = Field(None, description="The teacher; null where there are several.")
    teachers: dict[Name, TeacherSpec] = Field(
        {}, description="Several teachers by name, each with its weight and, if it has one, its curriculum."
    )
    student: BackboneSpec = Field(description="The student, which is trained.")
    data: DataSpec
    curriculum: CurriculumSpec = CurriculumSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    train: TrainSpec = TrainSpec()
    engine: EngineSpec = EngineSpec()
    checkpoint: CheckpointSpec = CheckpointSpec()
    cache: CacheSpec = CacheSpec()
    evaluate: EvaluateSpec = EvaluateSpec()
    listeners: Listeners = Field(
        {"tensorboard": {}},
        description="What keeps the run's curves, as plugins register it: tensorboard, wandb, mlflow, …; a "
        "list of names, or of names with options: [tensorboard, {wandb: {project: edge}}].",
    )

    def __init__(self, /, **keys: Any) -> None:
        try:
            super().__init__(**keys)
        except ValidationError as error:
            messages = error_messages(Spec, error)
            pairs = ((".".join(map(str, path)), message) for path, message in messages.items())
            lines = (": ".join(filter(None, pair)) for pair in pairs)
            raise SpecError("\n".join(lines), remedy_for(Spec, messages)) from error

    @model_validator(mode="after")
    def _fits(self) -> Spec:
        for broken, message in self._rules():
            if broken:
                raise ValueError(message)
        return self

    def _rules(self) -> Iterator[tuple[object, str]]:
        """Rules between sections: whether each is broken, and the message that has the way out."""
        yield (
            bool(self.teachers) == (self.teacher is not None),
            "a run has one teacher, or several teachers: give 'teacher' or 'teachers'",
        )
        yield (
            self.objective.reset_projector and self.engine.zero_stage,
            "objective.reset_projector needs engine.zero_stage: 0, since ZeRO keeps a copy of the weights",
        )
        yield (
            self.train.precision == "float16" and self.engine.zero_stage and self.optimizer.clip,
            "train.precision: float16 with engine.zero_stage needs optimizer.clip: 0, since DeepSpeed "
            "would clip gradients with their scale still on; bfloat16 has none",
        )
        yield (
            self.objective.sigreg and self.engine.accumulate > 1,
            "objective.sigreg looks at a whole batch, which engine.accumulate cuts into parts: give one",
        )
        yield (
            self.cache.folder is not None and self.objective.mixup,
            "cache.folder needs objective.mixup: false, since a mixed image never comes twice",
        )
        yield (
            self.cache.folder is not None and self.engine.compile,
            "cache.folder goes without engine.compile, which would compile for any number of images that "
            "may be missing",
        )
        yield (
            self.objective.target == "all" and any(one.chooses for one in self.curricula.values()),
            "objective.target: all leaves a curriculum nothing to choose: write {scheduler: fixed}",
        )

    @property
    def each_teacher(self) -> dict[str, TeacherSpec]:
        """The teachers by name; a single one is called ``teacher``."""
        if self.teacher is None:
            return self.teachers
        return {"teacher": TeacherSpec(**self.teacher.model_dump())}

    @property
    def curricula(self) -> dict[str, CurriculumSpec]:
        """Each teacher's curriculum, by the teacher's name."""
        return {name: teacher.curriculum or self.curriculum for name, teacher in self.each_teacher.items()}

    @property
    def warnings(self) -> list[tuple[str, str]]:
        """What is allowed and seldom meant: causes, each with its remedy."""
        random = [name for name, teacher in self.each_teacher.items() if teacher.weights == "none"]
        subjects = [f"teachers.{name}" if self.teachers else "the teacher" for name in random]
        cause = "has random weights (weights: none): it has nothing to teach"
        return [(f"{subject} {cause}", "Name a file, a folder or 'pretrained'.") for subject in subjects]

    def to_yaml(self) -> str:
        """The spec with every default written out; loading it gives this spec again."""
        from io import StringIO

        from ruamel.yaml import YAML

        text = StringIO()
        yaml = YAML()
        yaml.default_flow_style = False
        yaml.dump(self.model_dump(mode="json"), text)
        return text.getvalue()
