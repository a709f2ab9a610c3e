"""What a run shows, from events alone, on narrow and wide terminals and in a log."""

import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from leapcore import load_spec
from leapcore.listeners.console import ConsoleListener, EveryFigure, QuietListener
from leapcore.listeners.opening import arguments
from leapcore.plugins.events import ModelFacts, RunReport, RunStart, TargetChange
from leapcore.runs.progress import ProgressLines

VIT = ModelFacts(
    name="vit_base_patch14_dinov2",
    layers=12,
    parameters=86_580_480,
    macs=23_000_000_000,
    weights="dinov2.safetensors",
    widths=(768, 768),
    grids=((37, 37), (37, 37)),
    tokens=1369,
    prefix_tokens=1,
    image_size=(518, 518),
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
CNN = replace(
    VIT,
    name="convnext_atto",
    weights="none",
    widths=(40, 320),
    grids=((56, 56), (7, 7)),
    tokens=49,
    prefix_tokens=0,
    image_size=(224, 224),
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)
FIGURES = {
    "epoch": 0.5,
    "target_layer": 3,
    "alignment": 0.934,
    "alignment_average": 0.912,
    "loss": 0.6212,
    "images_per_second": 12_320.0,
    "data_wait": 0.03,
    "flops_saved": 0.516,
}


@pytest.fixture(scope="module")
def start():
    spec = load_spec("quickstart", ["train.batch_size=50", "data.image_size=224"])
    return RunStart(
        spec, Path("runs/x"), 10_000, 100, {"teacher": VIT}, CNN, 5000, 500, deepest={"teacher": 12}
    )


def shown(width=80, terminal=False, **how):
    """A console and what was written to it."""
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal, **how)
    return console, console.file.getvalue


def test_teacher_and_student_are_side_by_side_with_what_is_done_about_their_differences(start):
    console, text = shown()
    ConsoleListener(console).leapcore_run_started(start)
    assert re.search(r"MACs per image +23,000.0 M +23,000.0 M", text())
    assert re.search(r"tokens +37 x 37 \+ 1 +56 x 56 to 7 x 7", text())
    assert re.search(r"mean +0.485 0.456 0.406 +0.5", text())
    for note in (
        "normalisation differs: each model gets its own mean and std",
        "image sizes differ: views of 224 x 224 are resized for teacher",
        "tokens differ: the larger grid is averaged down (objective.grid: smaller)",
        "widths differ: linear heads",
        "one has no class token",
    ):
        assert note in text()
    assert max(map(len, text().splitlines())) <= 80
    console, text = shown()
    ConsoleListener(console).leapcore_run_started(replace(start, teachers={"teacher": CNN}))
    assert "image sizes" not in text()
    assert "normalisation" not in text()


def test_arguments_as_given_and_what_they_mean():
    console, text = shown()
    spec = load_spec("quickstart", ["train.seed=7", "curriculum.ema=1"])
    console.print(arguments(spec, ["train.seed=7", "curriculum.ema=1"], Path("out")))
    assert re.search(r"--set +train.seed=7 *\n +curriculum.ema=1 *\n", text())
    assert re.search(
        r"curriculum +scheduler cka, threshold 0.95, max_time_per_layer 2ep,\s+start first", text()
    )
    assert "all of it in out/spec.yaml" in text()
    assert "mixup" not in text(), "it is as by default"
    assert max(map(len, text().splitlines())) <= 80


def test_a_line_per_advance_and_few_of_progress_with_the_time_in_a_log(start):
    console, text = shown()
    listener = ConsoleListener(console)
    listener.leapcore_run_started(start)
    listener.leapcore_target_changed(TargetChange(0, 0, 1, "start"))
    for step in range(10, 10_001, 10):
        listener.leapcore_metrics(step, FIGURES)
    listener.leapcore_target_changed(
        TargetChange(10_000, 11, 12, "time is up after 5ep", alignment=0.9125, flops_saved=0.4321)
    )
    lines = [line for line in text().splitlines() if re.match(r"\d\d:\d\d:\d\d  ", line)]
    assert lines[0][10:] == "starts at layer 1 of 12"
    assert lines[-1][10:] == (
        "step 10,000  layer 11 -> 12  time is up after 5ep, alignment 0.912  saved 43.2%"
    )
    assert lines[1][10:] == (
        "step    500/10,000  layer 1/12  alignment 0.912/0.950  loss 0.6212  12,320 images/s  "
        "wait 3%  FLOPs saved 51.6%"
    )
    assert len(lines) == 22


@pytest.mark.parametrize("width", [80, 120])
def test_the_bar_and_its_figures_take_two_lines(start, width):
    console, _ = shown(width, terminal=True)
    listener = ConsoleListener(console)
    listener.leapcore_run_started(start)
    listener.leapcore_metrics(4_200, {**FIGURES, "images_per_second": 321.0})
    plain, text = shown(width)
    plain.print(*listener._progress.get_renderables())
    listener.close()
    first, second = text().splitlines()
    assert "42%" in first
    assert second.startswith("alignment 0.912/0.950  loss 0.6212  321 images/s  wait 3%  FLOPs saved 51.6%")


def test_no_color_is_respected(start, monkeypatch):
    change = TargetChange(5, 1, 2, "why")
    for colors in (True, False):
        if not colors:
            monkeypatch.setenv("NO_COLOR", "1")
        console, text = shown(terminal=True, color_system="standard")
        listener = ConsoleListener(console)
        listener.leapcore_run_started(start)
        listener.leapcore_target_changed(change)
        listener.close()
        assert ("\x1b[36m" in text()) is colors


def test_what_the_alignment_is_held_against():
    lines = ProgressLines(100, {"teacher": 12}, {"teacher": 12}, {"teacher": 0.95})
    assert lines.alignment(FIGURES) == "0.912/0.950", "the average decides"
    assert lines.alignment({**FIGURES, "target_layer": 12}) == "0.934", "at the last layer nothing does"
    assert lines.alignment({"target_layer": 3, "alignment": 0.9}) == "0.900", "nothing is averaged"
    assert replace(lines, thresholds={"teacher": None}).alignment(FIGURES) == "0.912"
    two = ProgressLines(100, {"a": 12, "b": 4}, {"a": 12, "b": 4}, {"a": 0.95, "b": None})
    figures = {"target_layer/a": 3, "alignment/a": 0.9, "alignment_average/a": 0.8, "target_layer/b": 4}
    assert two.alignment({**figures, "alignment/b": 0.7}) == "0.800/0.950, 0.700"
    assert two.targets(two.targets_in(figures)) == "layer 3/12, 4/4"
    assert ProgressLines().figures({"loss": 0.5}) == "loss 0.5000"


def report(start):
    return RunReport(
        name="x",
        folder=Path("runs/x"),
        status="finished",
        steps=10_000,
        accuracy={"knn": 0.9},
        flops={"spent": 8e11, "baseline": 1e12, "saved": 0.2},
        time={"seconds": 120.0, "training_seconds": 80.0},
        student={"folder": "runs/x/student", "parameters": 9, "load": "import timm"},
        teachers={"teacher": {}},
    )


def test_time_saved_is_told_where_the_last_layers_pace_was_measured(start):
    def closing(start, deep):
        console, text = shown(120)
        listener = ConsoleListener(console)
        listener.leapcore_run_started(start)
        listener.leapcore_metrics(10, FIGURES)
        for step in range(deep):  # the first is of steps at two layers
            listener.leapcore_metrics(
                20 + step, {**FIGURES, "target_layer": 12, "images_per_second": 1.0 if step == 0 else 5000.0}
            )
        listener.leapcore_run_finished(report(start))
        return text()

    assert "time saved    │ about 20% of training" in closing(start, 6)  # 10,000 x 50 / 5,000 = 100 s
    assert "time saved" not in closing(start, 5)
    assert "time saved" not in closing(replace(start, step=7, targets={"teacher": 2}), 9), (
        "half of it was seen"
    )


def test_quiet_and_verbose(start):
    console, text = shown()
    QuietListener(console).leapcore_run_finished(report(start))
    assert text() == "x: finished, kNN accuracy 90.00%, 20.0% of FLOPs saved, results in runs/x\n"
    console, text = shown()
    EveryFigure(console).leapcore_metrics(5, {"loss": 0.25, "lr": 1e-3})
    assert text()[10:] == "step 5  loss 0.25  lr 0.001\n"
