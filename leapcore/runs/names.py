"""The files of a run: their names, which folders are runs', and how those ended."""

from __future__ import annotations

import json
from pathlib import Path

# All that a run writes. Nothing else is ever deleted.
SPEC, STUDENT, EXPORTS = "spec.yaml", "student", "exports"
METRICS, CKA_MAPS = "metrics.jsonl", "cka_maps.jsonl"
START, SUMMARY, SKIPPED = "start.json", "summary.json", "skipped.log"
PAGE, MARKDOWN = REPORTS = ("report.html", "report.md")
CHECKPOINTS, TENSORBOARD, LISTENERS = "checkpoints", "tensorboard", "listeners"
FILES = (SPEC, START, METRICS, CKA_MAPS, SUMMARY, SKIPPED, *REPORTS)
FOLDERS = (TENSORBOARD, LISTENERS, STUDENT, CHECKPOINTS, EXPORTS)

LOCK = ".lock"
BEGUN = (SPEC, METRICS)  # both are there from the first step on


def is_run(folder: Path) -> bool:
    """Whether a run wrote or writes in a folder; a spec alone may be the user's own."""
    return any((folder / name).is_file() for name in (METRICS, SUMMARY, LOCK))


def status(folder: Path) -> str:
    """How the run in a folder ended, as its summary says; ``"unfinished"`` where there is none."""
    try:
        found = json.loads((folder / SUMMARY).read_text())["status"]
    except (OSError, ValueError, KeyError, TypeError):
        return "unfinished"
    return str(found) or "unfinished"
