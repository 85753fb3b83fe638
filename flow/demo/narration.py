"""What is said and done in a demo, a line each, and on a terminal what goes on right now."""

from __future__ import annotations

import time

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flow.sandbox.callers.conversation import CallerEvent, EventKind
from flow.sandbox.callers.pipecat_phone import rtvi_message

CALLER, BOT = "caller", "bot"
_ENDS = (".", "!", "?", ",", ":", ";")
_STYLES = {CALLER: "green", BOT: "cyan"}


class Narration:
    """Prints to a terminal or a pipe; there a line is never wrapped, and nothing is drawn twice."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()
        self._status = console.status("")
        self._is_bot_speaking = False
        self._told: set[int] = set()
        self._words = ""

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
                self._end_words()
                how = " (interrupts)" if self._is_bot_speaking else ""
                self._line(CALLER, Text(event.detail + how))
                self._status.update(_now_speaks(CALLER))
            case EventKind.LINE_ENDED:
                self._status.update(Text("the bot thinks", style="dim"))
            case EventKind.INTERRUPTION if self._is_bot_speaking:
                self._end_words()
                self._line(BOT, Text("[cut off here]", style="dim"))
            case EventKind.MESSAGE:
                self._rtvi(event.detail)
            case EventKind.HUNG_UP:
                self._end_words()
                self.step("the caller hangs up")

    def _rtvi(self, message: str) -> None:
        """The service has told its client what the bot is about to say: a clause, or of a model
        that speaks by itself a word. Each is told again when it was said."""
        kind, data = rtvi_message(message)
        if kind != "bot-output" or data["segment_id"] in self._told:
            return
        self._told.add(data["segment_id"])
        self._words += data["text"]
        if self._words.endswith(_ENDS):
            self._end_words()

    def _end_words(self) -> None:
        """Show what the bot has said since the last line of it."""
        said = self._words.strip()
        if said not in {"", *_ENDS}:
            self._line(BOT, Text(said))
        self._words = ""

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
