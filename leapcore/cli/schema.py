"""``leapcore schema``: all keys of a spec, for editors and for people."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer

from leapcore.errors import OutputError, SpecError

BESIDE = "leapcore.schema.json"  # what ``leapcore recipes copy`` calls it


def schema(
    bench: Annotated[
        bool, typer.Option("--bench", help="Write the schema of a benchmark's spec instead.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Write all keys of both as Markdown instead (docs/spec.md).")
    ] = False,
    output: Annotated[
        Optional[Path],  # noqa: UP045  typer reads it at run time, on Python 3.10 too
        typer.Option("--output", "-o", metavar="FILE", help="Write it there; else it is printed."),
    ] = None,
) -> None:
    """Write the JSON schema of a spec, for editors.

    The options that installed plugins add are in it.
    """
    from leapcore.plugins.loader import installed_plugins

    if bench and markdown:
        raise SpecError("--markdown describes both kinds of spec", "Leave --bench out.")
    if markdown:
        from leapcore.schema.page import page

        text = page(installed_plugins())
    else:
        text = schema_text(bench=bench)
    if output is None:
        sys.stdout.write(text)
    else:
        write(output, text)
        typer.echo(f"written to {output}")


def schema_text(*, bench: bool = False) -> str:
    """The JSON schema of the installed plugins."""
    from leapcore.plugins.loader import installed_plugins
    from leapcore.schema.build import bench_schema, run_schema

    schema = (bench_schema if bench else run_schema)(installed_plugins())
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def write(path: Path, text: str) -> None:
    """Write a file.

    Raises:
        OutputError: It cannot be written.
    """
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        remedy = "Name another file."
        if not path.parent.is_dir():
            remedy = f"Make the folder '{path.parent}' first, or name another file."
        raise OutputError(f"'{path}' cannot be written: {error.strerror}", remedy) from error
