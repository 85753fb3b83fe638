"""The baseline of P11: a plain Pipecat pipeline of the same vendors behind a WebSocket.

Its turns end as Pipecat's documentation has it for speech that Smart Turn does not know: 0.6 s
after voice activity detection has noticed silence; with ``turns`` ``smart`` as Smart Turn says.
``GET /turns`` lists what the callers' turns were, by the id of the call.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI, WebSocket
from pipecat.audio.vad.silero import SileroVADAnalyzer
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import (
    LLMContextAggregatorPair,
    LLMUserAggregatorParams,
)
from pipecat.processors.frame_processor import FrameProcessor
from pipecat.serializers.protobuf import ProtobufFrameSerializer
from pipecat.services.cartesia.tts import CartesiaTTSService
from pipecat.services.deepgram.stt import DeepgramSTTService
from pipecat.services.openai.llm import OpenAILLMService
from pipecat.transports.websocket.fastapi import (
    FastAPIWebsocketParams,
    FastAPIWebsocketTransport,
)
from pipecat.turns.user_stop import SpeechTimeoutUserTurnStopStrategy
from pipecat.turns.user_turn_strategies import UserTurnStrategies
from pipecat.workers.runner import WorkerRunner

from flow.bot.service_choices import SYSTEM_PROMPT
from flow.bot.transports.spec import SPEECH
from flow.bot.vendors.cartesia import USUAL_VOICE
from flow.telemetry import logs as log
from tests.bench.processes import say, task_given, until_dismissed


def plain_app(task: dict[str, Any]) -> FastAPI:
    """``/calls/{id}`` is a WebSocket with Pipecat's protobuf frames."""
    turns: defaultdict[str, list[str]] = defaultdict(list)
    app = FastAPI()

    @app.get("/turns")
    async def said() -> dict[str, list[str]]:
        return turns

    @app.websocket("/calls/{call}")
    async def answer(websocket: WebSocket, call: str) -> None:
        await websocket.accept()
        worker = _worker(websocket, task, turns[call])
        runner = WorkerRunner(handle_sigint=False, check_dangling_tasks=False)
        await runner.add_workers(worker)
        await runner.run()

    return app


def _worker(websocket: WebSocket, task: dict[str, Any], turns: list[str]) -> PipelineWorker:
    transport = FastAPIWebsocketTransport(
        websocket=websocket,
        params=FastAPIWebsocketParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
            serializer=ProtobufFrameSerializer(),
        ),
    )
    stt, llm, tts = _services(task["environment"])
    silence = SpeechTimeoutUserTurnStopStrategy(user_speech_timeout=0.6)
    strategies = UserTurnStrategies(stop=None if task["turns"] == "smart" else [silence])
    pair = LLMContextAggregatorPair(
        LLMContext(),
        user_params=LLMUserAggregatorParams(
            vad_analyzer=SileroVADAnalyzer(), user_turn_strategies=strategies
        ),
    )

    async def said(_: Any, __: Any, message: Any) -> None:
        turns.append(message.content)

    async def gone(*_: Any) -> None:
        await worker.cancel()

    pair.user().add_event_handler("on_user_turn_stopped", said)
    transport.add_event_handler("on_client_disconnected", gone)
    line = [transport.input(), stt, pair.user(), llm, tts, transport.output(), pair.assistant()]
    worker = PipelineWorker(
        Pipeline(line),
        params=PipelineParams(
            audio_in_sample_rate=SPEECH.sample_rate_in, audio_out_sample_rate=SPEECH.sample_rate_out
        ),
    )
    return worker


def _services(environment: dict[str, str]) -> tuple[FrameProcessor, FrameProcessor, FrameProcessor]:
    stt = DeepgramSTTService(
        api_key=environment["DEEPGRAM_API_KEY"],
        base_url=environment["DEEPGRAM_BASE_URL"],
        settings=DeepgramSTTService.Settings(model="nova-3"),
    )
    llm = OpenAILLMService(
        api_key=environment["OPENAI_API_KEY"],
        base_url=environment["OPENAI_BASE_URL"],
        settings=OpenAILLMService.Settings(model="gpt-4.1", system_instruction=SYSTEM_PROMPT),
    )
    tts = CartesiaTTSService(
        api_key=environment["CARTESIA_API_KEY"],
        url=f"ws{environment['CARTESIA_BASE_URL'].removeprefix('http')}/tts/websocket",
        settings=CartesiaTTSService.Settings(model="sonic-3", voice=USUAL_VOICE),
    )
    return stt, llm, tts


async def main() -> None:
    """Serve until nobody needs it any more."""
    log.set_up("warning", "json", content=False)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        config = uvicorn.Config(plain_app(task_given()), log_config=None, ws="auto")
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve([listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        say({"port": listening.getsockname()[1]})
        await until_dismissed()
        server.should_exit = True
        await serving


if __name__ == "__main__":
    uvloop.run(main())
