"""Names for PostHog: API keys are persons there and teams are groups, both known by id alone
until their properties are set."""

from __future__ import annotations

from typing import Any

from cachetools import LRUCache
from posthog import Posthog

from flow.domain.limits.api_key import ApiKey

MAX_REMEMBERED = 10_000


class PosthogIdentities:
    """Sets the person properties of API keys and the group properties of teams.

    Each is sent once a process, and again when it has changed. All of it comes of Unkey and the
    database: the key's name and id at Unkey, and its team. Nothing that a caller sends is in it.

    Args:
        client: what sends; ``None`` where there is no PostHog.
    """

    def __init__(self, client: Posthog | None) -> None:
        self._client = client
        self._keys: LRUCache[str, ApiKey] = LRUCache(MAX_REMEMBERED)
        self._teams: LRUCache[str, bool] = LRUCache(MAX_REMEMBERED)

    def __call__(self, key: ApiKey) -> None:
        """Tell PostHog of a key and its team, if it was not told yet. Never waits or raises.

        What the full queue drops is tried again at the next call.
        """
        client, key_id, team_id = self._client, str(key.id), key.team_id
        if client is None:
            return
        if self._keys.get(key_id) != key:
            person = {"$set": person_properties(key)}
            if client.capture("$set", distinct_id=key_id, properties=person) is not None:
                self._keys[key_id] = key
        if team_id and team_id not in self._teams:
            group = group_properties(key)
            if client.capture("$groupidentify", distinct_id=key_id, properties=group) is not None:
                self._teams[team_id] = True


def person_properties(key: ApiKey) -> dict[str, str]:
    """What a key's person is described by. PostHog shows ``name``: a key without one goes by its
    id at Unkey."""
    return {
        "name": key.name or key.unkey_key_id,
        "unkey_key_id": key.unkey_key_id,
        "team_id": key.team_id,
    }


def group_properties(key: ApiKey) -> dict[str, Any]:
    """The properties of the event that describes a key's team. A team has no name but its id."""
    return {"$group_type": "team", "$group_key": key.team_id, "$group_set": {"name": key.team_id}}
