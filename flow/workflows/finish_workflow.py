"""The workflow that finishes a call, kept in Postgres by DBOS.

DBOS is a singleton of its process: only this module launches it, and one `Executor` exists at a
time. It is imported when it is first needed, since that takes more than a second. Workflows run on
a loop of DBOS's own, and their steps on the loop that launched the executor, to which the clients
of the database and the vendors belong; DBOS's own queries never run there.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence, Set
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self
from uuid import UUID

import structlog

from flow.errors import ConfigurationError, DatabaseUnavailable
from flow.workflows import room_queue
from flow.workflows.dbos_common import APPLICATION, OVER, UNDER_WAY, VERSION, asked

if TYPE_CHECKING:
    from dbos import DBOSClient

    from flow.workflows.room_queue import RoomWork

log = structlog.get_logger(__name__)

Step = Callable[[UUID], Awaitable[None]]

WORKFLOW = "finish_call"
QUEUE = "finish_calls"
# An executor may carry calls, whose sound a burst of other work would stall.
AT_ONCE = 6
POLL_SECS = 1.0
REMEMBERED = 200
FORGET_AT_ONCE = 500
COMPLETE_SECS = 10
STOP_SECS = 20.0


class Finishing:
    """The queue of calls to finish, for every process, whether it runs workflows or not.

    Any call may raise `DatabaseUnavailable`.
    """

    def __init__(self, client: DBOSClient) -> None:
        self._client = client
        self._started: deque[str] = deque(maxlen=REMEMBERED)

    @classmethod
    async def open(cls, url: str) -> Self:
        """The queue in the database at ``url``, which is first connected to when it is used."""
        return cls(await asyncio.to_thread(_client, url))

    @property
    def client(self) -> DBOSClient:
        """The connection to DBOS, for other queues."""
        return self._client

    async def start(self, thread_id: UUID) -> None:
        """Have the thread finished; nothing happens if that was asked for before."""
        name = str(thread_id)
        await asked(self._client.enqueue, _options(name), name)
        self._started.append(name)

    async def is_over(self, thread_id: UUID) -> bool:
        """Whether the thread's workflow came to an end, good or bad."""
        return not await self._under_way([str(thread_id)])

    async def settled(self, timeout_secs: float) -> bool:
        """Wait until what was started here lately is over; False if time ran out first."""
        with suppress(TimeoutError, DatabaseUnavailable):
            async with asyncio.timeout(timeout_secs):
                while True:
                    if not await self._under_way(list(self._started)):
                        return True
                    await asyncio.sleep(POLL_SECS / 4)
        return False

    async def forget(self, before: datetime) -> int:
        """Delete what DBOS keeps of workflows that ended before then; how many those were.

        A thread that is asked for again finds itself finished.
        """
        found = await asked(
            self._client.list_workflows,
            queue_name=[QUEUE, room_queue.QUEUE],
            status=list(OVER),
            completed_before=before.isoformat(),
            limit=FORGET_AT_ONCE,
            load_input=False,
            load_output=False,
        )
        if found:
            await asked(self._client.delete_workflows, [one.workflow_id for one in found])
        return len(found)

    async def close(self) -> None:
        """Give back every connection."""
        await asyncio.to_thread(self._client.destroy)

    async def _under_way(self, names: Sequence[str]) -> bool:
        if not names:
            return False
        found = await asked(
            self._client.list_workflows,
            workflow_ids=list(names),
            status=list(UNDER_WAY),
            limit=1,
            load_input=False,
            load_output=False,
        )
        return bool(found)


class Executor:
    """Runs workflows in this process, its own from before a restart first.

    Args:
        under_way: the threads that are being finished here, as long as they are.
    """

    def __init__(self, under_way: Set[str]) -> None:
        self._under_way = under_way

    @classmethod
    async def launch(
        cls, url: str, name: str, steps: Sequence[Step], rooms: RoomWork | None = None
    ) -> Self:
        """Start running workflows of ``steps``, and ``rooms``, as the executor called ``name``.

        Raises:
            DatabaseUnavailable: DBOS's tables can neither be reached nor made.
            ConfigurationError: this process has an executor already.
        """
        under_way: set[str] = set()
        home = asyncio.get_running_loop()
        work = _workflow(steps, home, under_way)
        await asked(_launch, url, name, work, rooms, home)
        log.info("workflows_run_here", executor=name)
        return cls(under_way)

    async def recover(self, executor: str) -> int:
        """Take up what an executor that is gone had begun; how many workflows that were.

        Raises `DatabaseUnavailable`.
        """
        from dbos import DBOS

        # What DBOS Conductor would call; there is no public name for it.
        return len(await asked(DBOS._recover_pending_workflows, [executor]))

    async def close(self) -> None:
        """Take no more, and stop when what is under way is done.

        What takes too long goes on where it was, later or elsewhere.
        """
        from dbos import DBOS

        def stop() -> None:
            # DBOS waits for a second at the least if it is to wait at all.
            wait_secs = COMPLETE_SECS if self._under_way else 0
            DBOS.destroy(destroy_registry=True, workflow_completion_timeout_sec=wait_secs)

        stopping = threading.Thread(target=stop, name="dbos-stop", daemon=True)
        stopping.start()
        await asyncio.to_thread(stopping.join, STOP_SECS)
        if stopping.is_alive():
            log.warning("workflows_not_stopped", after_secs=STOP_SECS)


def _client(url: str) -> DBOSClient:
    from dbos import DBOSClient

    return DBOSClient(
        system_database_url=url,
        application_name=APPLICATION,
        system_database_pool_size=2,
        lazy=True,
        retry_connection_errors=False,
    )


def _options(workflow_id: str) -> Any:
    return {
        "workflow_name": WORKFLOW,
        "queue_name": QUEUE,
        "workflow_id": workflow_id,
        "app_version": VERSION,
    }


def _launch(
    url: str,
    name: str,
    work: Callable[[str], Awaitable[None]],
    rooms: RoomWork | None,
    home: asyncio.AbstractEventLoop,
) -> None:
    """Launch DBOS from a thread without a loop, so that it takes none for its own."""
    import dbos._dbos as singleton
    from dbos import DBOS

    if singleton._dbos_global_instance is not None:
        raise ConfigurationError("This process runs workflows already.")
    _log_with_ours()
    DBOS(
        config={
            "name": APPLICATION,
            "system_database_url": url,
            "executor_id": name,
            "application_version": VERSION,
            "use_listen_notify": False,
            "log_level": "WARNING",
            "db_engine_kwargs": {"pool_size": 4},
        }
    )
    try:
        DBOS.workflow(name=WORKFLOW)(work)
        if rooms is not None:
            rooms.register(home)
        DBOS.launch()
        DBOS.register_queue(QUEUE, worker_concurrency=AT_ONCE, polling_interval_sec=POLL_SECS)
        if rooms is not None:
            rooms.listen()
    except BaseException:
        DBOS.destroy(destroy_registry=True)
        raise


def _workflow(
    steps: Sequence[Step], home: asyncio.AbstractEventLoop, under_way: set[str]
) -> Callable[[str], Awaitable[None]]:
    async def finish_call(thread_id: str) -> None:
        from dbos import DBOS

        under_way.add(thread_id)
        try:
            for step in steps:
                await DBOS.run_step_async({"name": step.__name__}, at_home, step, thread_id)
        finally:
            under_way.discard(thread_id)

    async def at_home(step: Step, thread_id: str) -> None:
        async def work() -> None:
            await step(UUID(thread_id))

        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work(), home))

    return finish_call


def _log_with_ours() -> None:
    """Keep DBOS from giving its logger a handler: what it says goes the way of all logs."""
    logger = logging.getLogger("dbos")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
