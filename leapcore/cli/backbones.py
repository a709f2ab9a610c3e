"""``leapcore backbones``: which models there are, and the layers of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from leapcore.cli import completion
from leapcore.cli.arguments import Options, parsed_options
from leapcore.cli.output import console

if TYPE_CHECKING:
    from rich.table import Table

    from leapcore.core.provider import LayerFeatureProvider

_FIGURES = ("channels", "stride", "grid", "prefix", "GMACs", "share")  # the last two of all up to a layer


def backbones(
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="MODEL", help="A model, whose layers are shown; or a part of names, which are listed."
        ),
    ] = None,
    family: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="FAMILY",
            help="A backbone family; its models are listed, or MODEL is looked for there.",
            autocompletion=completion.families,
        ),
    ] = None,
    image_size: Annotated[int, typer.Option(min=1, metavar="N", help="Side of the images in pixels.")] = 224,
    option: Options = None,
) -> None:
    """List backbone families, their models, a model's layers.

    A layer is shown with its shape, and with what a forward pass up to it costs.
    """
    if name is not None:
        _show_or_list(name, family, image_size, parsed_options(option))
    elif family is not None:
        _list_models(family)
    else:
        _list_families()


def _list_families() -> None:
    from rich.table import Table

    from leapcore.models.build import factory_attribute, families, models_of
    from leapcore.plugins.loader import installed_plugins

    plugins, table = installed_plugins(), Table("family", "models", "what", "plugin")
    for family in families():
        what = factory_attribute(plugins.get("backbones", family), "summary", "")
        count = str(len(models_of(family)) or "")
        table.add_row(family, count, what, plugins.owner("backbones", family))
    console().print(table)


def _list_models(family: str) -> None:
    from leapcore.models.build import models_of

    names = models_of(family)
    typer.echo("\n".join(names) if names else f"The family '{family}' does not list its models.")


def _show_or_list(name: str, family: str | None, image_size: int, options: dict[str, Any]) -> None:
    """The layers of a model; where there is none of that name, the models whose names hold it."""
    from leapcore.errors import CountingError, UnknownNameError
    from leapcore.models.build import families, models_of

    try:
        _show_layers(name, family, image_size, options)
    except CountingError as error:
        raise CountingError(f"leapcore cannot use {name}: {error.cause}", "See docs/backbones.md.") from error
    except UnknownNameError:
        matches = [model for one in families() for model in models_of(one) if name in model]
        if family is not None or not matches:
            raise
        typer.echo("\n".join(sorted(matches)))


def _show_layers(name: str, family: str | None, image_size: int, options: dict[str, Any]) -> None:
    import torch

    from leapcore.models.build import build_backbone, family_of

    family = family or family_of(name)
    with console().status(f"building {name}"), torch.device("meta"):  # no memory, no arithmetic
        provider = build_backbone(family, model=name, weights="none", image_size=image_size, options=options)
        table = _layer_table(provider)
    height, width = provider.image_input.size
    parameters = sum(parameter.numel() for parameter in provider.parameters())
    console().print(f"{name}, family {family}, {height} x {width} pixels, {parameters:,} parameters")
    console().print(table)


def _layer_table(provider: LayerFeatureProvider) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Column, Table

    from leapcore.core.flops import count_layer_macs
    from leapcore.core.layer_check import layer_shapes

    macs, shapes = count_layer_macs(provider), layer_shapes(provider)
    table = Table(
        "layer",
        Column("name", no_wrap=True),
        *_FIGURES,
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for index, (layer, shape) in enumerate(zip(provider.layers, shapes, strict=True)):
        until = macs.until(index)
        prefix = 0 if shape.prefix_tokens is None else shape.prefix_tokens.shape[1]
        grid = "-" if shape.grid is None else f"{shape.grid[0]} x {shape.grid[1]}"
        cells = (
            layer.channels,
            layer.stride,
            grid,
            prefix,
            f"{until / 1e9:.4f}",
            f"{until / macs.whole:.1%}",
        )
        table.add_row(str(index + 1), layer.name, *map(str, cells))
    return table
