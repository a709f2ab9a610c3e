"""``leapcore validate``: whether a spec is sound."""

from __future__ import annotations

from leapcore.cli.arguments import Overrides, Source, load
from leapcore.cli.noise import library_noise
from leapcore.cli.output import console, print_line


def validate(source: Source, set_: Overrides = None) -> None:
    """Check a spec without building models or loading images.

    That is: keys, values, plugins' names, and that its files and folders of images are there.
    """
    from leapcore.spec.file import log_warnings

    with library_noise(shown=False):
        spec = load(source, set_)
        log_warnings(spec)
    result = f"{source}: ok, results would go to runs/{spec.name}"
    print_line(console(), f"{result} (models are checked by: leapcore plan {source})")
