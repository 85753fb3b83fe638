"""The tools that act on the call itself: hang up, pass the caller on, press keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flow.bot.tools.tool import (
    CallControl,
    CallVoice,
    ToolAnswer,
    ToolFailed,
    ToolUse,
    answered,
    failed,
)
from flow.domain.calls.tool_call import ToolOutcome
from flow.domain.calls.tools import TransferCallTool

LAST_WORDS = 500
MAX_DIGITS = 64
SPOKEN_SECS = 30.0
"""Within which what is said before a transfer is over, however long it is."""


class EndCall:
    """The bot says goodbye and hangs up."""

    name = "end_call"
    description = (
        "Ends the call. Use it when the conversation is over, or the caller asks you to hang up."
        " Give your last words to the caller as 'farewell': they are spoken, then the call ends."
        " Do not say goodbye otherwise."
    )
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "farewell": {
                "type": "string",
                "description": "Your last words, in the language of the conversation.",
            }
        },
        "required": ["farewell"],
    }
    timeout_secs = 5.0
    say_while_waiting = ""

    def __init__(self, voice: CallVoice) -> None:
        self._voice = voice

    async def use(self, use: ToolUse) -> ToolAnswer:
        """Have the call end; the model is not asked for more."""
        await self._voice.hang_up(use.arguments["farewell"][:LAST_WORDS].strip())
        told = {"result": "The farewell is being spoken, and the call ends."}
        return ToolAnswer(ToolOutcome.OK, told, is_replied_to=False)


class TransferCall:
    """The caller is passed on to one of a few numbers, which the model knows by name alone."""

    name = "transfer_call"
    description = "Passes the caller on to somebody else. You take no more part in the call then."
    timeout_secs = 60.0
    say_while_waiting = ""

    def __init__(self, described: TransferCallTool, control: CallControl, voice: CallVoice) -> None:
        self._described = described
        self._control = control
        self._voice = voice
        target = {
            "type": "string",
            "enum": [*described.targets],
            "description": "Whom the caller is passed on to.",
        }
        self.parameters: Mapping[str, Any] = {
            "type": "object",
            "properties": {"target": target},
            "required": ["target"],
        }

    async def use(self, use: ToolUse) -> ToolAnswer:
        """Say what is to be said first, and then transfer the call."""
        if self._described.say:
            await self._voice.say(self._described.say, SPOKEN_SECS)
        try:
            await self._control.transfer(self._described.targets[use.arguments["target"]])
        except ToolFailed as error:
            return failed(str(error))
        told = {"result": "The caller has been passed on."}
        return ToolAnswer(ToolOutcome.OK, told, is_replied_to=False)


class SendDtmf:
    """The bot presses telephone keys."""

    name = "send_dtmf"
    description = "Presses keys of the telephone, for menus that are answered so."
    parameters: Mapping[str, Any] = {
        "type": "object",
        "properties": {
            "digits": {
                "type": "string",
                "description": "The keys: 0-9, * and #; 'w' waits half a second.",
            }
        },
        "required": ["digits"],
    }
    timeout_secs = 40.0
    say_while_waiting = ""
    _KEYS = re.compile(rf"[0-9*#w]{{1,{MAX_DIGITS}}}")

    def __init__(self, control: CallControl) -> None:
        self._control = control

    async def use(self, use: ToolUse) -> ToolAnswer:
        """Press the keys."""
        digits = use.arguments["digits"]
        if not self._KEYS.fullmatch(digits):
            why = f"digits: must be 1 to {MAX_DIGITS} of 0-9, *, # and w"
            return failed(why, ToolOutcome.INVALID_ARGUMENTS)
        try:
            await self._control.send_dtmf(digits)
        except ToolFailed as error:
            return failed(str(error))
        return answered("The keys have been pressed.")
