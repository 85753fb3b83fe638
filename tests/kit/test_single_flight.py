"""One run a key, shared by all who ask while it is under way."""

from __future__ import annotations

import asyncio

from flow.kit.single_flight import SingleFlight


class Work:
    """Counts its runs, each of which ends when it is released."""

    def __init__(self) -> None:
        self.runs = 0
        self.released = asyncio.Event()

    async def __call__(self) -> int:
        self.runs += 1
        run = self.runs
        await self.released.wait()
        return run


async def test_all_who_ask_meanwhile_share_one_run_and_the_next_begins_another() -> None:
    flights, work = SingleFlight[str, int](), Work()
    asking = [asyncio.create_task(flights.run("a", work)) for _ in range(3)]
    await asyncio.sleep(0)
    work.released.set()
    assert await asyncio.gather(*asking) == [1, 1, 1]
    assert await flights.run("a", work) == 2


async def test_another_key_has_a_run_of_its_own() -> None:
    flights, work = SingleFlight[str, int](), Work()
    work.released.set()
    assert await asyncio.gather(flights.run("a", work), flights.run("b", work)) == [1, 2]


async def test_who_leaves_does_not_end_it_for_the_others() -> None:
    flights, work = SingleFlight[str, int](), Work()
    first, second = (asyncio.create_task(flights.run("a", work)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    work.released.set()
    assert await second == 1
    assert first.cancelled()


async def test_an_error_is_everybodys_and_is_not_kept() -> None:
    flights, work = SingleFlight[str, int](), Work()
    work.released.set()

    async def fail() -> int:
        raise ValueError

    results = await asyncio.gather(
        *(flights.run("a", fail) for _ in range(2)), return_exceptions=True
    )
    assert [type(result) for result in results] == [ValueError] * 2
    assert await flights.run("a", work) == 1


async def test_closing_releases_who_waits() -> None:
    flights, work = SingleFlight[str, int](), Work()
    asking = asyncio.create_task(flights.run("a", work))
    await asyncio.sleep(0)
    await flights.aclose()
    assert await asking is None
