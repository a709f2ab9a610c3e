"""A report as one HTML page that needs nothing else: no network, no scripts, no other files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from itertools import count
from typing import TYPE_CHECKING, Any

from leapcore._version import __version__
from leapcore.report.document import Code, Document, Picture, Table, Text
from leapcore.report.figures.svg import with_own_ids

if TYPE_CHECKING:
    from jinja2 import Environment

_KINDS = {Text: "text", Table: "table", Picture: "picture", Code: "code"}


def page(document: Document) -> str:
    """A document as HTML; every text is escaped, drawings excepted."""
    template = _environment().get_template("page.html")
    return template.render(
        document=document, kind_of=lambda block: _KINDS[type(block)], svg=_numbered(), version=__version__
    )


def _numbered() -> Callable[[str], Any]:
    """Marks drawings as safe, each with ids of its own."""
    from markupsafe import Markup

    numbers = count(1)
    return lambda element: Markup(with_own_ids(element, f"d{next(numbers)}"))


@cache
def _environment() -> Environment:
    from jinja2 import DictLoader, Environment, StrictUndefined

    folder = files("leapcore.report") / "template"
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in ("page.html", "page.css")}
    return Environment(
        loader=DictLoader(texts),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
