"""Owners and recorders for the bot's tests."""

from __future__ import annotations

from uuid import uuid4

import pytest

from flow.domain.usage.events import Owner
from flow.domain.usage.token_estimates import warm_up
from tests.events import an_owner
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
    return an_owner(workflow_thread_id=uuid4(), api_key_id=uuid4(), team_id="team_a")
