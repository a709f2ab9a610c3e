"""Numbers as they are written."""

from __future__ import annotations

import math

from leapcore.report.statistics import Estimate

NOTHING = "–"


def percent(share: float, digits: int = 2) -> str:
    """``97.50`` for 0.975, a dash for NaN."""
    return NOTHING if math.isnan(share) else _rounded(share, f".{digits}f")


def signed(share: float, digits: int = 2) -> str:
    """``+1.20`` for 0.012."""
    return NOTHING if math.isnan(share) else _rounded(share, f"+.{digits}f")


def _rounded(share: float, form: str) -> str:
    """A share in %, with a minus that is one, and none before a zero."""
    rounded = float(format(100 * share, form)) + 0.0
    return format(rounded, form).replace("-", "−")


def level(share: Estimate) -> str:
    """``97.50 ± 0.31``, in %; one seed has no interval."""
    return percent(share.mean) + _half(share)


def difference(share: Estimate) -> str:
    """``+1.20 ± 0.31``, in points, with ``≈`` where the interval holds 0."""
    mark = " ≈" if share.verdict == "none" else ""
    return signed(share.mean) + _half(share) + mark


def _half(share: Estimate) -> str:
    return "" if math.isnan(share.half) else f" ± {100 * share.half:.2f}"


def flops(count: float) -> str:
    """``1.650e+12``, a plain 0."""
    return NOTHING if math.isnan(count) else f"{count:.3e}" if count else "0"


def seconds(count: float) -> str:
    """``83.3 s``; hours and minutes above ten minutes."""
    if math.isnan(count):
        return NOTHING
    if count < 600:
        return f"{count:.1f} s"
    hours, minutes = divmod(round(count / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"


def counted(number: int, one: str, many: str = "") -> str:
    """``1 seed``, ``3 seeds``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"
