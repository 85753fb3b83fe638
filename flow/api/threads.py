"""Reading threads: what was said, what came of it, what it cost."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response

from flow.api.auth import caller_of
from flow.api.dependencies import services_of
from flow.api.exact_json import ExactJSONResponse
from flow.api.list_parameters import Cursor, Limit, OfProduct
from flow.api.phone_legs import PhoneLegView, phone_legs
from flow.api.problems import documented
from flow.api.recordings import RecordingView, recording_of
from flow.api.usage import FirstDay, LastDay
from flow.domain.calls.flow_position import position_in
from flow.domain.calls.latency import CallLatency
from flow.domain.calls.thread import Status, Thread, Turn
from flow.domain.calls.tool_call import ToolOutcome

router = APIRouter(prefix="/api/threads", tags=["threads"])

_USAGE_STATS = {
    "total_tokens": 5120,
    "total_cost_usd": 0.0213,
    "llm_calls": 7,
    "models_used": {"openai/gpt-4.1": {"llm_calls": 7, "input_tokens": 3000}},
    "unmetered": [],
    "posthog_trace_id": "0b6d1a52-8a5e-4f0f-9d0f-5b8f3c0f2a11",
}
LEDGER_ROW = {
    "id": "2c5cf638-f760-4919-af84-bcb669c64739",
    "kind": "llm",
    "model": "gpt-4.1-2025-04-14",
    "lines": [
        {
            "unit": "output_tokens",
            "quantity": "54",
            "cost_usd": "0.000432",
            "component": "llm_output",
            "part_of": None,
        }
    ],
    "total_cost_usd": "0.000432",
}


class Utterance(BaseModel):
    """When somebody spoke, and who."""

    seq: int = Field(description="Its place in the call.")
    role: str = Field(
        examples=["assistant"], description="`user` is the caller, `assistant` the bot."
    )
    started_at: datetime = Field(description="When it began.")
    interrupted: bool = Field(description="The caller spoke over it; the content is what was said.")


class TurnView(Utterance):
    """One utterance."""

    content: str = Field(
        examples=["Good evening! For how many people?"], description="What was said."
    )


class ReplyLatency(BaseModel):
    """How long the caller waited for one reply, and for what; the parts add up to the total."""

    seq: int = Field(description="Of the assistant's turn in the transcript.")
    total_secs: float = Field(
        description="From the end of the caller's speech to the bot's first sound.",
        examples=[0.781],
    )
    turn_detection_secs: float = Field(
        description="Until the silence was noticed, and from the transcript to the turn's end."
    )
    stt_secs: float = Field(description="From the silence noticed to the final transcript.")
    llm_secs: float = Field(description="To the first token.")
    first_sentence_secs: float = Field(description="To the first words that can be spoken.")
    tts_secs: float = Field(description="To the first sound of the voice.")
    output_secs: float = Field(description="Until it was sent.")


class LatencyView(BaseModel):
    """How long the caller waited for replies."""

    turns: list[ReplyLatency] = Field(description="Each reply of the bot.")
    p50_secs: float = Field(description="The median of the totals.")
    p95_secs: float = Field(description="What 95 % of the totals are below.")
    max_secs: float = Field(description="The longest total.")


class ToolCallView(BaseModel):
    """One use of a tool."""

    id: UUID = Field(description="HTTP tools got it as `webhook-id` and `Idempotency-Key`.")
    name: str = Field(examples=["find_booking"], description="The tool's.")
    arguments: dict[str, Any] = Field(description="What the model called it with.")
    outcome: ToolOutcome = Field(description="What came of it.")
    started_at: datetime = Field(description="When it began.")
    seconds: float | None = Field(description="null while it runs, and where that is not known.")
    status: int | None = Field(description="Of the tool's HTTP answer, where there was one.")
    result: dict[str, Any] | None = Field(description="What the model was told of it.")
    transition_to: str | None = Field(
        description="The node of the bot's flow that the call went to with it."
    )


class AgentUsed(BaseModel):
    """A stored agent, in the version that a call has."""

    id: UUID = Field(description="The agent's id.")
    version: int = Field(examples=[1], description="Which of its versions.")


class ThreadSummary(BaseModel):
    """A thread without its transcript."""

    workflow_thread_id: UUID = Field(description="The call's id.")
    status: Status = Field(description="Where the call is.")
    product: str = Field(examples=["voice_bot"], description="The product that it is for.")
    billable: bool = Field(description="Whether the team is charged for it.")
    agent: AgentUsed | None = Field(description="What it was made with; null without one.")
    created_at: datetime = Field(description="When it was joined.")
    connected_at: datetime | None = Field(description="When the caller came.")
    ended_at: datetime | None = Field(description="When the call was over.")
    completed_at: datetime | None = Field(description="When its account was settled.")
    end_reason: str | None = Field(examples=["caller_left"], description="Why it is over.")
    end_requested: bool = Field(description="Whether somebody asked for its end.")
    error: dict[str, Any] | None = Field(
        description="What went wrong: a `code` and what goes with it."
    )
    insights: dict[str, Any] | None = Field(
        description="What was extracted from the transcript: `status`, `data`, `model`."
    )
    usage_stats: dict[str, Any] = Field(
        description="The running account; exact numbers, for reading.", examples=[_USAGE_STATS]
    )
    metadata: dict[str, Any] = Field(description="What the join said.")
    posthog_trace_id: UUID = Field(description="The id of the call's trace at PostHog.")


class ThreadView(ThreadSummary):
    """A thread with its transcript, and the request it was made by."""

    request: dict[str, Any] = Field(
        description="The join as accepted: what its agent and product say and what its variables"
        " mean is filled in."
    )
    variables: dict[str, str | int | float | bool] = Field(
        examples=[{"name": "Ada"}], description="What the join gave."
    )
    transcript: list[TurnView] = Field(description="What was said, in its order.")
    tool_calls: list[ToolCallView] = Field(description="What the bot did beside talking.")
    node: str | None = Field(
        description="Where the call is in its bot's flow, or was last; null without a flow."
    )
    phone: list[PhoneLegView] = Field(
        default=[], description="Of a telephone call: its caller, and whom it was passed on to."
    )
    latency: LatencyView | None = Field(description="null where the bot has replied to nothing.")
    recording: RecordingView | None = Field(
        description="null where the join and its agent asked for none."
    )


class ThreadPage(BaseModel):
    """Threads, newest first. Give ``next_cursor`` back as ``cursor`` for the following page."""

    threads: list[ThreadSummary] = Field(description="The threads of the page.")
    next_cursor: str | None = Field(description="Where the next page begins; null on the last.")


class ThreadUsage(BaseModel):
    """The thread's rows of the ledger, oldest first; quantities and money are strings.

    Each row has a line for each unit that was used. A line with ``part_of`` counts some of that
    unit again: its quantity must not be added up. Costs of all lines add up to the total. A cost
    is null where nothing is charged by the unit, the total where no price is known.
    """

    workflow_thread_id: UUID = Field(description="The call's id.")
    events: list[dict[str, Any]] = Field(examples=[[LEDGER_ROW]], description="The rows.")


@router.get("", response_model=ThreadPage, responses=documented(404, 422))
async def list_threads(
    request: Request,
    limit: Limit = 50,
    cursor: Cursor = None,
    status: Annotated[Status | None, Query(description="Only those that are there.")] = None,
    product: OfProduct = None,
    agent: Annotated[
        str | None,
        Query(min_length=1, max_length=128, description="Only this agent's: its id or name."),
    ] = None,
    running: Annotated[
        bool, Query(description="Only those with a call under way, or being connected.")
    ] = False,
    from_: FirstDay = None,
    to: LastDay = None,
) -> Response:
    """The key's threads, newest first."""
    database, key = services_of(request).database, caller_of(request)
    made_with = None if agent is None else (await database.agents.get(key.team_id, agent)).id
    page = await database.list_workflow_threads(
        key.id,
        limit=limit,
        cursor=cursor,
        status=status,
        product=product,
        agent_id=made_with,
        running=running,
        from_=from_,
        to=to,
    )
    summaries = [ThreadSummary(**_summary(thread)) for thread in page.items]
    return ExactJSONResponse(ThreadPage(threads=summaries, next_cursor=page.next_cursor))


@router.get(
    "/{thread_id:uuid}",
    response_model=ThreadView,
    responses=documented(404),
)
async def get_thread(request: Request, thread_id: UUID) -> Response:
    """One thread with its transcript."""
    thread = await services_of(request).database.get_workflow_thread_data(
        thread_id, caller_of(request).id
    )
    transcript = [TurnView(**turn_fields(turn)) for turn in thread.transcript]
    return ExactJSONResponse(
        ThreadView(
            **_summary(thread),
            request=thread.join.shown(),
            variables=thread.join.variables,
            transcript=transcript,
            tool_calls=[ToolCallView(**asdict(call)) for call in thread.tool_calls],
            node=_node(thread),
            phone=await phone_legs(services_of(request), thread),
            latency=latency_of(thread),
            recording=await recording_of(request, thread),
        )
    )


@router.get(
    "/{thread_id:uuid}/usage",
    response_model=ThreadUsage,
    responses=documented(404),
)
async def get_thread_usage(request: Request, thread_id: UUID) -> Response:
    """Everything the thread was charged for, one row per piece of vendor work."""
    events = await services_of(request).database.get_thread_usage(thread_id, caller_of(request).id)
    return ExactJSONResponse(ThreadUsage(workflow_thread_id=thread_id, events=events))


def _node(thread: Thread) -> str | None:
    flow = thread.join.bot.flow
    return None if flow is None else position_in(flow, thread.tool_calls).node


def turn_fields(turn: Turn) -> dict[str, Any]:
    """The fields of a `TurnView`."""
    return {
        "seq": turn.seq,
        "role": turn.role,
        "content": turn.content,
        "started_at": turn.started_at,
        "interrupted": turn.interrupted,
    }


def latency_of(thread: Thread) -> LatencyView | None:
    """How long the caller waited for the replies of a thread; ``None`` without any."""
    replies = [(turn.seq, turn.latency) for turn in thread.transcript if turn.latency is not None]
    summary = CallLatency.of([latency for _, latency in replies])
    if summary is None:
        return None
    return LatencyView(
        turns=[
            ReplyLatency(seq=seq, total_secs=latency.total_secs, **latency.to_json())
            for seq, latency in replies
        ],
        **asdict(summary),
    )


def _summary(thread: Thread) -> dict[str, Any]:
    return {
        "workflow_thread_id": thread.id,
        "status": thread.status,
        "product": thread.product,
        "billable": thread.billable,
        "agent": thread.join.agent and thread.join.agent.model_dump(),
        "created_at": thread.created_at,
        "connected_at": thread.connected_at,
        "ended_at": thread.ended_at,
        "completed_at": thread.completed_at,
        "end_reason": thread.end_reason,
        "end_requested": thread.end_requested,
        "error": thread.error,
        "insights": thread.insights,
        "usage_stats": thread.usage_stats,
        "metadata": thread.metadata,
        "posthog_trace_id": thread.id,
    }
