"""A student's model card: YAML for the Hugging Face hub, then what is known of it, and nothing else."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from leapcore.plugins.events import TargetChange
from leapcore.report.card_usage import UNKNOWN_LICENCE, usage
from leapcore.report.document import Block, Code, Document, Section, Table, Text
from leapcore.report.markdown import markdown
from leapcore.report.measures import training_seconds
from leapcore.report.numbers import counted, flops, percent, seconds
from leapcore.report.run_report import accuracy_table
from leapcore.runs.reader import Run


class ExportedFile(NamedTuple):
    """Another format beside the weights.

    Attributes:
        format: Its name.
        name: The file's.
        size: Height and width of the images that it takes.
        deviation: From torch, as a share of the largest absolute feature.
    """

    format: str
    name: str
    size: tuple[int, int]
    deviation: float

    @property
    def checked(self) -> str:
        """How well it agrees with torch."""
        return f"deviates from torch by at most {self.deviation:.1e} of the largest feature"

    def load(self, folder: Path | None = None) -> str:
        """The line of Python that runs it, in its own folder if none is named."""
        path = str(folder / self.name if folder else self.name)
        shape = f"(1, 3, {self.size[0]}, {self.size[1]})"
        if self.format == "ONNX":
            images = f'{{"images": numpy.zeros({shape}, "float32")}}'
            run = f"onnxruntime.InferenceSession({path!r}).run(None, {images})[0]"
            return f"import numpy, onnxruntime; features = {run}"
        return f"import torch; features = torch.jit.load({path!r})(torch.zeros{shape})"


@dataclass(frozen=True)
class Moment:
    """A student as it was when it was taken.

    Attributes:
        step: After which step.
        accuracy: Measured then, as shares; may be empty.
        flops: Of training until then: spent, baseline and saved, as in a run's report.
        training_seconds: Until then.
        parameters: How many it has.
    """

    step: int
    accuracy: Mapping[str, float]
    flops: Mapping[str, Any]
    training_seconds: float
    parameters: int

    @classmethod
    def end(cls, run: Run) -> Moment:
        """As it was at the run's end."""
        end, parameters = run.summary, run.summary.student["parameters"]
        return cls(end.steps, end.accuracy, end.flops, training_seconds(run), parameters)


def card(
    run: Run, folder: Path, moment: Moment, files: Sequence[ExportedFile], licences: Mapping[str, str]
) -> str:
    """The model card.

    Args:
        run: Where the student comes from.
        folder: The student's; ``config.json`` in it means that timm reads it.
        moment: When it was taken.
        files: Other formats beside the weights.
        licences: What timm states of published weights, by the model's name.
    """
    sections = [
        Section("Use", usage(run, folder)),
        Section("Other formats", _formats(files)),
        Section("Accuracy", _accuracy(moment)),
        Section("Training", [_training(run, moment)]),
        Section("Licence", [Text(text) for text in _licence(run, licences)]),
        Section("Reproduce", _reproduce(run)),
    ]
    document = Document(run.name, "model", _summary(run, moment), [s for s in sections if s.blocks])
    return f"---\n{_yaml(_front_matter(run, folder))}---\n\n{markdown(document)}"


def _front_matter(run: Run, folder: Path) -> dict[str, Any]:
    """Only what is known; an unknown licence is called so, which is one of the hub's words."""
    library = "timm" if (folder / "config.json").is_file() else "leapcore"
    tags = dict.fromkeys(["image-feature-extraction", "knowledge-distillation", "leapcore", library])
    known = {
        "library_name": library,
        "pipeline_tag": "image-feature-extraction",
        "license": UNKNOWN_LICENCE,
        "tags": list(tags),
    }
    family, _, name = str(run.data.get("source", "")).partition("/")
    return known | ({"datasets": [name]} if family in ("hfds", "hfids") else {})


def _yaml(content: dict[str, Any]) -> str:
    from ruamel.yaml import YAML

    text, yaml = io.StringIO(), YAML()
    yaml.default_flow_style = False
    yaml.dump(content, text)
    return text.getvalue()


def _summary(run: Run, moment: Moment) -> list[str]:
    model, teachers = run.student_model, " and ".join(one.described for one in run.teacher_models.values())
    taken = f"It was taken after step {moment.step:,}"
    ended = f" of a run that is {run.state}" if moment.step == run.steps else ", before the run's last step"
    return [
        f"An image feature extractor without a classifier: {model.name} with "
        f"{counted(moment.parameters, 'parameter')}, distilled from {teachers} by leapcore.",
        f"{taken}{ended}.",
    ]


def _formats(files: Sequence[ExportedFile]) -> list[Block]:
    if not files:
        return []
    rows = [[file.name, file.format, f"{file.deviation:.1e}"] for file in files]
    caption = (
        "Each takes RGB pixels in [0, 1], which it normalises itself, in batches of any size, and returns "
        "one vector per image. The deviation is the largest on random images, as a share of the largest "
        "absolute feature, on a CPU."
    )
    lines = [Code(file.load().replace("; ", "\n"), language="python") for file in files]
    return [Table(["file", "format", "deviation from torch"], rows, caption, stubs=2), *lines]


def _accuracy(moment: Moment) -> list[Block]:
    if not moment.accuracy:
        return [Text("Not measured at this step.")]
    return [accuracy_table(moment.accuracy)]


def _training(run: Run, moment: Moment) -> Table:
    data, train = run.data, run.settings.get("train") or {}
    view = f"{data.get('image_size')} × {data.get('image_size')} pixels"
    rows = [
        *([name, _teacher(run, name)] for name in run.teacher_models),
        ["student started from", run.student_model.start],
        ["images", f"{data.get('source')}, training split {data.get('train')}, {view}"],
        ["steps", f"{moment.step:,} of {train.get('batch_size')} images"],
        ["FLOPs spent", flops(moment.flops["spent"])],
        ["FLOPs at the last layer throughout", flops(moment.flops["baseline"])],
        ["FLOPs saved", f"{percent(moment.flops['saved'], 1)} %"],
        ["time of training", seconds(moment.training_seconds)],
        *(["target layers" + whose, walk] for whose, walk in _walks(run, moment.step)),
    ]
    caption = (
        "FLOPs are those of training, 2 per multiply-add, as leapcore's ledger counts them; what is saved is "
        "counted against the same steps with the teacher's last layer as target."
    )
    return Table(["what", "figure"], rows, caption, stubs=2)


def _teacher(run: Run, name: str) -> str:
    model, facts = run.teacher_models[name].described, run.summary.teachers.get(name)
    if facts is None:
        return model
    return f"{model}, {facts['layers']} layers, {counted(facts['parameters'], 'parameter')}"


def _walks(run: Run, step: int) -> list[tuple[str, str]]:
    """Each teacher's target layers until a step."""
    several = len(run.teachers) > 1
    return [
        (f" of {teacher}" if several else "", " → ".join(map(_change, changes)))
        for teacher in run.teachers
        if (changes := [c for c in run.changes if c.teacher == teacher and c.step <= step])
    ]


def _change(change: TargetChange) -> str:
    why = f" (step {change.step:,}: {change.reason})" if change.previous else ""
    return f"{change.target}{why}"


def _licence(run: Run, licences: Mapping[str, str]) -> list[str]:
    models = [*run.teacher_models.values(), run.student_model]
    stated = {model.name: licences[model.name] for model in models if model.name in licences}
    return [
        f"None is stated: before you publish the model, replace 'license: {UNKNOWN_LICENCE}' above by what "
        "applies. The student learned from its teacher's outputs on its training images, so the terms of "
        "both may bind it.",
        *(f"timm states {licence} for the published weights of {name}." for name, licence in stated.items()),
    ]


def _reproduce(run: Run) -> list[Block]:
    machine = run.summary.machine
    versions = ", ".join(
        f"{name} {machine[name]}"
        for name in ("leapcore", "torch", "timm", "deepspeed", "python")
        if name in machine
    )
    blocks: list[Block] = [Text("Save this as spec.yaml, then run: leapcore run spec.yaml")]
    blocks.append(Code(run.spec, language="yaml"))
    return blocks + ([Text(f"Made with {versions}, on {machine.get('device')}.")] if versions else [])
