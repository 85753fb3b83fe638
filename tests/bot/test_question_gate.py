"""A model is asked nothing once its call is over."""

from __future__ import annotations

from pipecat.frames.frames import LLMContextFrame, TextFrame
from pipecat.processors.aggregators.llm_context import LLMContext

from flow.bot.question_gate import QuestionGate
from tests.bot.running import Witness, started


async def test_a_closed_gate_keeps_questions_back_and_nothing_else() -> None:
    gate, witness = QuestionGate(), Witness()
    first, late = LLMContextFrame(LLMContext()), LLMContextFrame(LLMContext())
    async with started([gate, witness]) as worker:
        await worker.queue_frame(first)
        await witness.sees(worker)
        gate.close()
        await worker.queue_frames([late, TextFrame("a word")])
        await witness.sees(worker)
    assert witness.of(LLMContextFrame) == [first]
    assert [frame.text for frame in witness.of(TextFrame)][1] == "a word"
