"""The files of a run and of a benchmark: their names, and which folders are a run's or a benchmark's."""

from __future__ import annotations

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

MATRIX = "matrix.json"  # makes a folder a benchmark's


def is_run(folder: Path) -> bool:
    """Whether a run wrote or writes in a folder; a spec alone may be the user's own."""
    return any((folder / name).is_file() for name in (METRICS, SUMMARY, LOCK))


def is_bench(folder: Path) -> bool:
    """Whether a folder is a benchmark's."""
    return (folder / MATRIX).is_file()
