"""Writes the pages that are made from the code: ``make pages``."""

import inspect
import sys
from collections.abc import Iterator
from html import escape
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from typer.main import get_command

from leapcore.cli import app
from leapcore.plugins.loader import Plugins
from leapcore.schema import page as spec

DOCS = Path(__file__).parent
sys.path.append(str(DOCS.parent / "tests"))

CLI = """\
# Commands

Made from the program itself by `make pages`; `leapcore COMMAND --help` (or `-h`) says the same, and
`leapcore --version` tells the version. Exit codes are in
[scaling.md](scaling.md#what-ends-a-run-and-how), messages in [troubleshooting.md](troubleshooting.md).
"""
TROUBLE = """\
# Troubleshooting by message

leapcore ends with what is wrong and where, then what to do about it, and with exit code 2. Search this page
for a few words of the message. Each entry is provoked by a test (`tests/bad_inputs.py`), so it reads as you
see it, except for names and numbers. The spec in its command is sound unless the entry says otherwise.

What takes longer to go wrong, such as memory, disks, dead processes and losses that are not finite, is in
[scaling.md](scaling.md#what-ends-a-run-and-how). A traceback is a fault of leapcore: please report it.
"""


def cli_page() -> str:
    """The reference of all commands."""
    return "\n".join([CLI, *_commands("leapcore", get_command(app))])


def _commands(path: str, command: Any) -> Iterator[str]:
    inner = getattr(command, "commands", {})
    if path != "leapcore":
        yield from _section(path, command)
    for name in inner:  # in the order of help
        yield from _commands(f"{path} {name}", inner[name])


def _section(path: str, command: Any) -> Iterator[str]:
    yield f"{'#' * (path.count(' ') + 1)} {path}\n"
    yield escape(inspect.cleandoc(command.help or command.callback.__doc__ or ""), quote=False) + "\n"
    if not hasattr(command, "commands"):
        yield f"`{' '.join([path, *map(_usage, command.params)])}`\n"
        yield from (
            f"- `{_form(parameter, parameter.opts)}`: {_meaning(parameter)}" for parameter in command.params
        )
        yield ""


def _usage(parameter: Any) -> str:
    form = _form(parameter, parameter.opts[:1])
    many = "…" if parameter.nargs == -1 or getattr(parameter, "multiple", False) else ""
    return f"{form}{many}" if parameter.required else f"[{form}]{many}"


def _form(parameter: Any, names: list[str]) -> str:
    """``--output DIR`` for an option, ``RUN`` for an argument."""
    value = parameter.metavar or parameter.name.upper()
    if parameter.param_type_name == "argument":
        return value
    flag = parameter.is_flag
    return "/".join([", ".join(names), *parameter.secondary_opts]) if flag else f"{', '.join(names)} {value}"


def _meaning(parameter: Any) -> str:
    default = getattr(parameter.default, "value", parameter.default)  # of an enumeration
    if parameter.secondary_opts:
        default = parameter.opts[0] if default else parameter.secondary_opts[0]
    told = isinstance(default, (int, str)) and not isinstance(default, bool)
    meaning = escape(parameter.help, quote=False)
    return f"{meaning} Default: {default}." if told else meaning


def trouble_page() -> str:
    """What users get wrong, by kind: message, cause, remedy."""
    from bad_inputs import BAD

    kinds = [f"## {kind}\n\n" + "\n".join(map(_entry, cases)) + "\n" for kind, cases in BAD.items()]
    return "\n".join([TROUBLE, *kinds])


def _entry(bad: Any) -> str:
    command = f"leapcore {bad.command}"
    return f"- **`{bad.message}`** after `{command}`  \n  {bad.cause}  \n  → {bad.remedy}"


def spec_page() -> str:
    """The reference of all keys, without those of plugins that only this machine has."""
    ours = [point for point in entry_points(group="leapcore") if point.dist and point.dist.name == "leapcore"]
    return spec.page(Plugins(ours))


PAGES = {"cli.md": cli_page, "spec.md": spec_page, "troubleshooting.md": trouble_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")
