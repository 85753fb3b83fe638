"""All routes under ``/api/admin/``, behind the permission of operators."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from flow.api.admin import hosts, keys, ledger, numbers, teams, threads, webhooks
from flow.api.admin.operators import require_operator

router = APIRouter(
    prefix="/api/admin", tags=["operators"], dependencies=[Depends(require_operator)]
)
for part in (keys, numbers, teams, threads, webhooks, hosts, ledger):
    router.include_router(part.router)

BODIES = (keys.KeyRequest, keys.KeyChange, teams.QuotaChange, numbers.NumberChange)
"""What the routes read by themselves, for the API's description."""
