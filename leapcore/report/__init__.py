"""What runs achieved, as a page, as Markdown and as a table: read from their folders, without torch."""

from __future__ import annotations

from leapcore.report.writing import Written, write

__all__ = ["Written", "write"]
