"""The baseline of a join: a FastAPI handler that does one INSERT, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import uuid4

import uvloop
from fastapi import Body, FastAPI
from psycopg.types.json import Jsonb
from psycopg_pool import AsyncConnectionPool

from tests.bench.asgi_server import serve
from tests.bench.processes import task_given


def bare_app(url: str) -> FastAPI:
    """``POST /join`` keeps the body it is given under a new id."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        options = {"autocommit": True, "prepare_threshold": 0}
        async with AsyncConnectionPool(url, kwargs=options, max_size=10) as pool:
            async with pool.connection() as connection:
                await connection.execute(
                    "create table if not exists bare_threads"
                    " (id uuid primary key, body jsonb not null, at timestamptz default now())"
                )
            app.state.pool = pool
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/join", status_code=201)
    async def join(body: Annotated[dict[str, Any], Body()]) -> dict[str, str]:
        thread_id = uuid4()
        async with app.state.pool.connection() as connection:
            await connection.execute(
                "insert into bare_threads (id, body) values (%s, %s)", (thread_id, Jsonb(body))
            )
        return {"workflow_thread_id": str(thread_id)}

    return app


async def main() -> None:
    """Serve until nobody needs it any more."""
    await serve(bare_app(task_given()["url"]))


if __name__ == "__main__":
    uvloop.run(main())
