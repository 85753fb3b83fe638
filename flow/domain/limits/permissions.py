"""What a key may do beyond its own calls: permissions that it has at Unkey."""

from __future__ import annotations

ADMIN = "flow.admin"
"""Everything under ``/api/admin/``: the accounts and limits of all keys and teams."""

CONTENT = "flow.content"
"""With `ADMIN`: also what was said in calls, asked of bots, and extracted from them."""

TEAM_LIMITS = "limits.team"
"""How much of each limit the key's whole team has used."""
