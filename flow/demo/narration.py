"""What is said and done in a demo, a line each, and on a terminal what goes on right now."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flow.sandbox.callers.conversation import CallerEvent, EventKind

CALLER, BOT = "caller", "bot"
_STYLES = {CALLER: "green", BOT: "cyan"}


class Narration:
    """Prints to a terminal or a pipe; there a line is never wrapped, and nothing is drawn twice."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._status = console.status("")
        self._is_bot_speaking = False

    def __enter__(self) -> Narration:
        """Begin to show what goes on now."""
        if self._console.is_terminal:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Show it no longer."""
        self._status.stop()

    def step(self, text: str) -> None:
        """Something was done."""
        self._line("", Text(text))

    def doing(self, text: str) -> None:
        """Something goes on, and takes its time."""
        self._status.update(Text(text, style="dim"))
        if not self._console.is_terminal:
            self.step(f"{text} ...")

    def heard(self, event: CallerEvent) -> None:
        """Something happened on the caller's side of the call."""
        match event.kind:
            case EventKind.JOINED:
                self.step(f"call {event.detail}")
            case EventKind.BOT_STARTED | EventKind.BOT_STOPPED:
                self._is_bot_speaking = event.kind is EventKind.BOT_STARTED
                self._status.update(_now_speaks(BOT) if self._is_bot_speaking else "")
            case EventKind.LINE_STARTED:
                how = " (interrupts)" if self._is_bot_speaking else ""
                self._line(CALLER, Text(event.detail + how))
                self._status.update(_now_speaks(CALLER))
            case EventKind.LINE_ENDED:
                self._status.update(Text("the bot thinks", style="dim"))
            case EventKind.HUNG_UP:
                self.step("the caller hangs up")

    def turn(self, turn: Mapping[str, Any]) -> None:
        """The service has put down a turn; the caller's were shown when they were said."""
        if turn["role"] == "assistant":
            how = " [cut off here]" if turn["interrupted"] else ""
            self._line(BOT, Text.assemble(turn["content"], (how, "dim")))

    def _line(self, who: str, said: Text) -> None:
        at = f"{time.monotonic() - self._began:5.1f} s"
        if not self._console.is_terminal:
            told = f"{at}  {who}: {said}" if who else f"{at}  {said}"
            self._console.print(told, highlight=False, markup=False, soft_wrap=True)
            return
        line = Table.grid(padding=(0, 2, 0, 0))
        line.add_column(no_wrap=True, style="dim")
        line.add_column(no_wrap=True, min_width=len(CALLER), style=_STYLES.get(who, ""))
        line.add_column(overflow="fold")
        line.add_row(at, who, said)
        self._console.print(line, highlight=False)


def _now_speaks(who: str) -> Text:
    return Text(f"the {who} speaks", style=_STYLES[who])
