"""A report as Markdown: its words and tables; drawings are in the page beside it."""

from __future__ import annotations

import re
from html import escape

from leapcore.report.document import Block, Code, Document, Picture, Table, Text


def markdown(document: Document, page: str = "") -> str:
    """A document as Markdown.

    Args:
        document: The report.
        page: File name of the page that holds the drawings, if there are any.
    """
    parts = [f"# {_plain(document.title)}", _plain(" ".join(document.summary))]
    parts += [f"With drawings: [{page}]({page})"] if page else []
    for section in document.sections:
        blocks = [text for block in section.blocks if (text := _block(block))]
        if blocks:
            parts += [f"## {section.title}", *blocks]
    return "\n\n".join(parts) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Picture):
        return ""
    if isinstance(block, Table):
        return table(block)
    return _plain(block.text) if isinstance(block, Text) else _code(block)


def table(content: Table) -> str:
    """A table with its caption as Markdown."""
    rules = [" --- " if index < content.stubs else " ---: " for index in range(len(content.columns))]
    lines = [_line(content.columns), f"|{'|'.join(rules)}|", *map(_line, content.rows)]
    return "\n".join(lines) + (f"\n\n{_plain(content.caption)}" if content.caption else "")


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    """Text in which nothing is markup."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", escape(" ".join(text.split()), quote=False))


def _code(code: Code) -> str:
    """A fenced block whose fence the text does not hold."""
    fence = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", code.text))])
    title = f"{_plain(code.title)}\n\n" if code.title else ""
    return f"{title}{fence}{code.language}\n{code.text.rstrip()}\n{fence}"
