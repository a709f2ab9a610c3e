"""The results of checking a contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

import torch

from leapcore.errors import LeapcoreError, PluginError, describe_error

Subject = TypeVar("Subject")


class ContractError(PluginError):
    """A plugin breaks rules of its contract; all of them are named."""


class Rule(NamedTuple):
    """A rule and its check.

    Attributes:
        name: In a few words.
        remedy: What to do where it is broken, unless the check knows better.
        check: Raises :class:`Broken`, or anything, where the rule is broken.
    """

    name: str
    remedy: str
    check: Callable[[Any], None]


class Broken(Exception):
    """A rule is broken.

    Args:
        what: What was seen.
        remedy: What to do; the rule's own if empty.
    """

    def __init__(self, what: str, remedy: str = "") -> None:
        super().__init__(what)
        self.remedy = remedy


@dataclass(frozen=True)
class RuleResult:
    """The result of one rule's check.

    Attributes:
        rule: Its name.
        broken: What was seen, empty where the rule is kept.
        remedy: What to do about it.
        seconds: How long the check took.
    """

    rule: str
    broken: str
    remedy: str
    seconds: float


@dataclass(frozen=True)
class ContractReport:
    """All rules of a contract.

    Attributes:
        subject: What was checked.
        results: One per rule, in order.
        untried: How many rules were not tried, since the first one is broken.
    """

    subject: str
    results: tuple[RuleResult, ...]
    untried: int = 0

    @property
    def failures(self) -> tuple[RuleResult, ...]:
        """The rules that are broken."""
        return tuple(result for result in self.results if result.broken)

    def require(self) -> None:
        """Do nothing if all rules are kept.

        Raises:
            ContractError: Some are broken.
        """
        if self.failures:
            lines = [f"- {f.rule}: {f.broken}\n  {f.remedy}" for f in self.failures]
            if self.untried:
                lines.append(f"The other {self.untried} rules were not tried.")
            total = len(self.results) + self.untried
            broken = f"{self.subject} breaks {len(self.failures)} of {total} rules"
            raise ContractError(broken, "\n".join(lines))


def check_rules(subject: str, rules: Sequence[Rule], make: Callable[[], Subject]) -> ContractReport:
    """Check rule by rule, each on a subject of its own.

    The first rule is what the others rest on: if it is broken, they are not tried.
    """
    results: list[RuleResult] = []
    for rule in rules:
        results.append(_checked(rule, make))
        if len(results) == 1 and results[0].broken:
            break
    return ContractReport(subject, tuple(results), len(rules) - len(results))


def subject_of(factory: Callable[..., Any]) -> str:
    """What a factory is called: the class, where it is a class's method."""
    owner = getattr(factory, "__self__", factory)
    return getattr(owner, "__name__", type(owner).__name__)


def _checked(rule: Rule, make: Callable[[], Subject]) -> RuleResult:
    start = perf_counter()
    broken, remedy = "", rule.remedy
    try:
        with torch.random.fork_rng():  # what a check draws leaves the caller's state alone
            torch.manual_seed(0)
            rule.check(make())
    except Broken as error:
        broken, remedy = str(error), error.remedy or rule.remedy
    except LeapcoreError as error:
        broken, remedy = error.cause, error.remedy or rule.remedy
    # A stranger's code can fail in any way.
    except Exception as error:
        broken = describe_error(error)
    return RuleResult(rule.name, broken, remedy, perf_counter() - start)
