"""``leapcore eval``: the quality of a model's frozen features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from leapcore.cli import completion
from leapcore.cli.arguments import Overrides, load

app = typer.Typer(help="Evaluate the frozen features of any model.", no_args_is_help=True)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A run's or a student's folder, a timm name, or a teacher of the spec by its name.",
    ),
]
SpecOption = Annotated[
    str,
    typer.Option(
        "--spec",
        metavar="SPEC|RECIPE",
        help="A spec or recipe; its data section names the images and their size.",
        autocompletion=completion.sources,
    ),
]
Family = Annotated[
    Optional[str],  # noqa: UP045  typer reads it at run time, on Python 3.10 too
    typer.Option(
        "--backbone",
        metavar="FAMILY",
        help="The model's backbone family; taken from its name if not given.",
        autocompletion=completion.families,
    ),
]

_ACCURACIES = {
    "knn": "kNN accuracy",
    "linear": "linear probe accuracy",
    "linear_best": "best epoch",
    "linear_top5": "top-5 accuracy",
}
_RETRIEVAL = {"mAP": "map", "mP@1": "mp1", "mP@5": "mp5", "mP@10": "mp10"}


@app.command("knn")
def evaluate_knn(model: Model, spec: SpecOption, set_: Overrides = None, backbone: Family = None) -> None:
    """Measure k-nearest-neighbour accuracy.

    The 20 nearest neighbours by cosine vote, with a temperature of 0.07.
    """
    _evaluate(model, spec, set_, backbone, knn=True)


@app.command("linear")
def evaluate_linear(model: Model, spec: SpecOption, set_: Overrides = None, backbone: Family = None) -> None:
    """Measure the accuracy of a linear probe.

    It is trained on frozen features by SGD for 100 epochs, as in the paper.
    """
    _evaluate(model, spec, set_, backbone, linear=True)


@app.command("retrieval")
def evaluate_retrieval(
    model: Model,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Holds gnd_<its name>.pkl and jpg/, as published.")
    ],
    spec: SpecOption,
    set_: Overrides = None,
    backbone: Family = None,
) -> None:
    """Measure instance retrieval on revisited Oxford or Paris.

    Prints mAP, and mP@1, 5 and 10, of the easy, medium and hard protocol.
    """
    loaded = load(spec, set_)
    from leapcore.tools.evaluate import retrieve

    scores = retrieve(model, folder, loaded, family=backbone)
    for protocol in ("easy", "medium", "hard"):
        figures = [f"{name} {scores[f'{protocol}_{key}']:.2%}" for name, key in _RETRIEVAL.items()]
        typer.echo(f"{protocol}: {', '.join(figures)}")


def _evaluate(model: str, source: str, set_: list[str] | None, family: str | None, **measures: bool) -> None:
    spec = load(source, set_)
    from leapcore.tools.evaluate import evaluate_model

    shares = evaluate_model(model, spec, family=family, **measures)
    for name, label in _ACCURACIES.items():
        if name in shares:
            typer.echo(f"{label}: {shares[name]:.2%}")
    if "linear" in shares and "linear_top5" not in shares:
        typer.echo("top-5 accuracy is left out: with five classes or fewer every answer is among them")
