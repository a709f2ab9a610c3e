"""The spec: one YAML file that says everything about a run."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, field_validator, model_validator

from leapcore.engine_spec import CacheSpec, CheckpointSpec, EngineSpec, Listeners
from leapcore.errors import SpecError
from leapcore.faults import KEYS, problems_of
from leapcore.section import FileName, Moment, Name, Section, Share
from leapcore.training_spec import OptimizerSpec, TrainSpec


class BackboneSpec(Section):
    """A teacher or student."""

    backbone: str = Field(
        description="Family of the model, as plugins register it; `leapcore backbones` lists them."
    )
    model: str | None = Field(
        None, description="timm's name of the model; null where a weights folder tells it."
    )
    weights: FileName = Field(
        "none",
        description="pretrained (download), none (random), a .safetensors or .pth file, a timm folder, or "
        "asset:NAME, which ships with leapcore.",
    )
    options: dict[str, Any] = Field(
        {}, description="Further arguments of timm's model, such as embed_dim; img_size, in pixels, as well."
    )


class AugmentSpec(Section):
    """Random changes to a training image."""

    scale: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(le=1)]] = Field(
        (0.14, 1.0),
        description="Smallest and largest share of an image's area that the crop keeps (LEAP: 0.14, 1).",
    )
    flip: Share = Field(0.5, description="Probability of a left-right flip (LEAP: 0.5).")
    color: Share = Field(
        0.8,
        description="Probability of colour jitter (LEAP: 0.8): brightness and contrast by up to 0.4, "
        "saturation 0.2, hue 0.1.",
    )
    gray: Share = Field(0.2, description="Probability of dropping the colours (LEAP: 0.2).")
    blur: float = Field(
        0.0,
        ge=0,
        description="Largest sigma of the Gaussian blur, in pixels; LEAP's own, 0.1, changes no 8-bit pixel.",
    )
    views: int | None = Field(
        None,
        ge=1,
        description="How many views an image has: epoch e uses number e modulo views; null: a new one in "
        "every epoch (LEAP).",
    )

    @field_validator("scale")
    @classmethod
    def _ordered(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if scale[0] > scale[1]:
            raise ValueError(f"the smallest share comes first, got {list(scale)}")
        return scale


class DataSpec(Section):
    """The images. Labels are only used to evaluate."""

    source: str = Field(
        description="folder, digits, or one of timm's readers: hfds/NAME, hfids/NAME, wds/NAME, torch/NAME."
    )
    train: FileName = Field(
        "train",
        description="Training images: a split's name, or a folder with one sub-folder per class or with "
        "images alone, which have no labels.",
    )
    val: FileName = Field(
        "val",
        description="Validation images: the same. Without labels name the training images again, and set "
        "evaluate: {knn: never, linear: never}.",
    )
    root: FileName | None = Field(
        None, description="Folder where a reader other than 'folder' keeps its files."
    )
    image_size: int = Field(gt=0, description="Side of the square training view, in pixels (LEAP: 224).")
    crop: float = Field(
        0.875,
        gt=0,
        le=1,
        description="Share of each side that evaluation keeps, from the centre (LEAP: 224 / 256).",
    )
    augment: AugmentSpec = Field(AugmentSpec(), description="Random changes to a training image.")
    train_images: int | None = Field(
        None, gt=0, description="Number of training images, for a stream that does not tell."
    )
    val_images: int | None = Field(
        None, gt=0, description="Number of validation images, for a stream that does not tell."
    )
    image_key: str | None = Field(
        None, description="Column or suffix of the images, where a reader has several."
    )
    label_key: str | None = Field(None, description="Column or suffix of the labels.")
    workers: int = Field(
        4, ge=0, description="Processes that load images, of each process that trains; 0 loads there."
    )
    skip_limit: Share = Field(
        0.01, description="Share of the images that may be unreadable; they are skipped. More end the run."
    )


class CurriculumSpec(Section):
    """Which teacher layer is the target, and when it moves. Other keys are options of the scheduler."""

    model_config = ConfigDict(extra="allow", frozen=True)

    scheduler: str = Field("cka", description="A difficulty scheduler, as plugins register it (LEAP: cka).")

    @property
    def options(self) -> dict[str, Any]:
        """The keys that belong to the scheduler."""
        return self.model_extra or {}


class TeacherSpec(BackboneSpec):
    """One of several teachers."""

    weight: float = Field(1.0, gt=0, description="Factor of this teacher's loss in the sum.")
    curriculum: CurriculumSpec | None = Field(
        None, description="This teacher's own curriculum; null for the run's."
    )


class ObjectiveSpec(Section):
    """What the student minimises, for each teacher alike."""

    target: Literal["layer", "layer+last", "all"] = Field(
        "layer",
        description="What the student's last layer learns from: the curriculum's layer (LEAP), or that and "
        "the last one; all: each of its layers from the teacher's at the same depth, without a curriculum.",
    )
    reduction: Literal["mean", "sum"] | None = Field(
        None, description="How the losses of all layers are joined, with target: all; null is mean."
    )
    patch: str = Field("mse", description="Loss between tokens, as plugins register it (LEAP: mse).")
    cls_weight: float = Field(0.05, ge=0, description="Factor of the loss between class tokens (LEAP: 0.05).")
    cls_head: Literal["shared", "separate"] = Field(
        "shared", description="Whether class token and tokens are projected by one head (LEAP) or by two."
    )
    sigreg: float = Field(
        0.0,
        ge=0,
        description="Factor of SIGReg, which draws the student's covariance to the identity (an extra of "
        "LEAP's code, there 0.01).",
    )
    patch_embedding: float = Field(
        0.0,
        ge=0,
        description="Factor of the loss between normalised patch embeddings (an extra of LEAP's code).",
    )
    target_norm: Literal["final", "parameter-free", "raw"] = Field(
        "final",
        description="Norm of the teacher's features: its own final norm where the width is the last layer's, "
        "else one without parameters (final, LEAP); that one everywhere (parameter-free); none (raw).",
    )
    grid: Literal["smaller", "larger"] = Field(
        "smaller",
        description="Where tokens are compared if grids differ: the larger is averaged down to the smaller, "
        "or the smaller stretched bilinearly to the larger.",
    )
    reset_projector: bool = Field(
        False, description="Draw the projector anew at every advance (an extra of LEAP's code)."
    )
    mixup: bool = Field(
        True, description="Mix each batch with a permutation of itself, by a weight from U(0, 1) (LEAP)."
    )

    @model_validator(mode="after")
    def _fits(self) -> ObjectiveSpec:
        if self.cls_head == "separate" and self.cls_weight == 0:
            raise ValueError("a separate cls_head would never be trained with cls_weight: 0")
        if self.reduction is not None and self.target != "all":
            raise ValueError(f"reduction belongs to target: all, not to target: {self.target}")
        return self


class EvaluateSpec(Section):
    """When to look at what the student has learned: every so often, at the end, or never."""

    knn: Moment = Field(
        "end",
        description="Accuracy of the 20 nearest neighbours by the cosine of pooled features (not in LEAP).",
    )
    linear: Literal["end", "never"] = Field(
        "end", description="Accuracy of a linear probe of 100 epochs (LEAP's protocol)."
    )
    cka_map: Moment = Field(
        "never",
        description="Linear CKA of each layer of the student with each of the teacher's, on the tokens of "
        "256 validation images; with a duration also before the first step and at the end (cka_maps.jsonl).",
    )
    retrieval: list[FileName] = Field(
        [],
        description="Folders of revisited Oxford or Paris, for instance retrieval at the end (LEAP's).",
    )
    teacher: bool = Field(False, description="Evaluate the teacher too, once, for comparison.")

    @property
    def needs_images(self) -> bool:
        """Whether anything is measured on the validation images."""
        return any(when != "never" for when in (self.knn, self.linear, self.cka_map))


class Spec(Section):
    """A whole run.

    Built in code, a section is a mapping: ``Spec(name="mine", teacher={"backbone": "vit", …}, …)``. What only
    plugins and files can tell is checked when it is run, or by :func:`leapcore.load_spec`.

    Raises:
        SpecError: A key is unknown or missing, or a value is wrong; all faults are listed.
    """

    name: str = Field(pattern=r"^\w[\w.\-]*$", description="Names the output folder, runs/<name>.")
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
            problems = problems_of(Spec, error).items()
            told = (": ".join(filter(None, [".".join(map(str, path)), said])) for path, said in problems)
            raise SpecError("\n".join(told), KEYS) from error

    @model_validator(mode="after")
    def _fits(self) -> Spec:
        if self.objective.reset_projector and self.engine.zero_stage:
            raise ValueError(
                "objective.reset_projector needs engine.zero_stage: 0, since ZeRO keeps a copy of the weights"
            )
        if self.train.precision == "float16" and self.engine.zero_stage and self.optimizer.clip:
            raise ValueError(
                "train.precision: float16 with engine.zero_stage needs optimizer.clip: 0, since DeepSpeed "
                "would clip gradients with their scale still on; bfloat16 has none"
            )
        if self.objective.sigreg and self.engine.accumulate > 1:
            raise ValueError(
                "objective.sigreg looks at a whole batch, which engine.accumulate cuts into parts: give one"
            )
        if self.cache.folder is not None and self.objective.mixup:
            raise ValueError(
                "cache.folder needs objective.mixup: false, since a mixed image never comes twice"
            )
        if self.cache.folder is not None and self.engine.compile:
            raise ValueError(
                "cache.folder goes without engine.compile, which would compile for any number of images that "
                "may be missing"
            )
        if bool(self.teachers) == (self.teacher is not None):
            raise ValueError("a run has one teacher, or several teachers: give 'teacher' or 'teachers'")
        for curriculum in self.curricula.values():
            chooses = curriculum.scheduler != "fixed" or curriculum.options.get("layer", "last") != "last"
            if self.objective.target == "all" and chooses:
                raise ValueError(
                    "objective.target: all leaves a curriculum nothing to choose: write {scheduler: fixed}"
                )
        return self

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

    def to_yaml(self) -> str:
        """The spec with every default written out; loading it gives this spec again."""
        from io import StringIO

        from ruamel.yaml import YAML

        text = StringIO()
        yaml = YAML()
        yaml.default_flow_style = False
        yaml.dump(self.model_dump(mode="json"), text)
        return text.getvalue()
