"""Owners and recorders for the tests of metering."""

from __future__ import annotations

from uuid import uuid4

import pytest

from flow.domain.usage.events import Owner
from flow.domain.usage.token_estimates import warm_up
from tests.notebook import Notebook


@pytest.fixture(scope="session", autouse=True)
def _warm() -> None:
    """The tokenizer's words are loaded before a request is under way, as the service does it."""
    warm_up()


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def owner() -> Owner:
    return Owner(uuid4(), uuid4(), "team_a", "voice_bot", True)
