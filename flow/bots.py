"""What a bot of one's own is written with.

    from flow.bots import Call

    async def bot(call: Call):
        user, assistant = call.aggregators(call.context())
        return [
            call.transport.input(), call.stt(), user, call.llm(), call.tts(),
            call.transport.output(), assistant,
        ]

``FLOW_BOTS`` names its module; docs/guides/bots.md says the rest.
"""

from flow.bot.custom.call import Call

__all__ = ["Call"]
