"""What a check has found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """How it stands: only a problem makes ``flow doctor`` fail."""

    OK = "ok"
    SKIPPED = "skipped"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found. No text in it holds a secret.

    Args:
        check: what was looked at, in a word or two.
        said: what was found.
        cure: what to do about it; ``None`` where there is nothing to do.
    """

    check: str
    status: Status
    said: str
    cure: str | None = None


def ok(check: str, said: str) -> Finding:
    """All is well."""
    return Finding(check, Status.OK, said)


def skipped(check: str, said: str) -> Finding:
    """It is not set up, or could not be looked at, and need not be."""
    return Finding(check, Status.SKIPPED, said)


def warning(check: str, said: str, cure: str | None = None) -> Finding:
    """It works, but not as somebody may think."""
    return Finding(check, Status.WARNING, said, cure)


def problem(check: str, said: str, cure: str | None = None) -> Finding:
    """A service would not start, or not do its work."""
    return Finding(check, Status.PROBLEM, said, cure)


def is_well(findings: Iterable[Finding]) -> bool:
    """Whether nothing has to be done."""
    return all(finding.status is not Status.PROBLEM for finding in findings)
