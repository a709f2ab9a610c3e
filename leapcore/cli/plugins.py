"""``leapcore plugins``: what is installed, whether it keeps its contract, and how to begin one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from leapcore.cli.arguments import Options, parsed_options
from leapcore.cli.output import console
from leapcore.errors import SpecError

if TYPE_CHECKING:
    from leapcore.testing import ContractReport

app = typer.Typer(help="Installed plugins, and writing your own.", invoke_without_command=True)


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_plugins()


@app.command("list")
def list_plugins() -> None:
    """List the installed plugins, and why a broken one fails.

    Each is shown with what it registers.
    """
    from rich.markup import escape
    from rich.table import Table

    from leapcore.plugins.loader import installed_plugins

    plugins, table = installed_plugins(), Table("plugin", "distribution", "registers", "state")
    for info in plugins.infos:
        cause, remedy = plugins.diagnosis(info)
        registers = "\n".join(f"{kind}: {', '.join(names)}" for kind, names in info.registers.items())
        table.add_row(
            info.name, info.distribution, registers, escape(f"{cause}. {remedy}" if cause else "ok")
        )
    console().print(table)


@app.command("new")
def new_plugin(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="How specs will name the backbone, e.g. my-backbone.")
    ],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder to write; leapcore-<name> here if not given."
        ),
    ] = None,
) -> None:
    """Write a package with a backbone, to start your own from.

    The backbone works as it is, and there are a test and a spec beside it.
    """
    from leapcore.plugins.loader import installed_plugins
    from leapcore.plugins.templates import write_plugin

    if name in installed_plugins().registries["backbones"].names():
        raise SpecError(f"there is a backbone '{name}' already", "Give yours another name.")
    folder = write_plugin(name, output)
    typer.echo(f"written to {folder}; go on with:\n")
    typer.echo(f"  cd {folder}\n  pip install -e .\n  pytest\n  leapcore run spec.yaml")


@app.command("check")
def check_plugin(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The plugin's name, as `leapcore plugins` shows it.")
    ],
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            metavar="MODEL", help="The model to check a backbone with, where its family names none."
        ),
    ] = None,
    image_size: Annotated[int, typer.Option(min=1, metavar="N", help="Side of the images in pixels.")] = 64,
    option: Options = None,
) -> None:
    """Check that a plugin keeps its contract.

    Its backbones and schedulers are tried; exit code 2 if a rule is broken.
    """
    from leapcore.testing.plugin import check_plugin as check

    failures = 0
    for subject, report in check(name, model=model, image_size=image_size, options=parsed_options(option)):
        _print_report(subject, report)
        failures += len(report.failures)
    raise typer.Exit(2 if failures else 0)


def _print_report(subject: str, report: ContractReport) -> None:
    seconds = sum(result.seconds for result in report.results)
    kept, total = len(report.results) - len(report.failures), len(report.results) + report.untried
    untried = f", {report.untried} not tried" if report.untried else ""
    terminal = console()
    terminal.print(f"{subject}: {kept} of {total} rules kept{untried}, {seconds:.1f} s", highlight=False)
    for failure in report.failures:
        terminal.print(f"  {failure.rule}: {failure.broken}", style="red", markup=False, highlight=False)
        terminal.print(f"  {failure.remedy}", markup=False, highlight=False)
