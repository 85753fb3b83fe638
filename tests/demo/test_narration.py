"""What a demo shows while it runs, on a terminal and in a pipe."""

from __future__ import annotations

import json
import re
from io import StringIO

from rich.console import Console

from flow.demo.narration import Narration
from flow.sandbox.callers.conversation import CallerEvent, EventKind

LONG = ("I am sorry to hear that and I understand that you are waiting for it " * 3).strip() + "."


def output(segment: int, text: str) -> tuple[EventKind, str]:
    """What a client is told that the bot says."""
    data = {"text": text, "segment_id": segment, "will_be_spoken": True}
    return EventKind.MESSAGE, json.dumps({"label": "rtvi-ai", "type": "bot-output", "data": data})


def told(console: Console) -> list[str]:
    """What is shown of a call, without times and what moves the cursor."""
    with Narration(console) as narration:
        narration.doing("starting the service")
        for kind, detail in (
            (EventKind.JOINED, "thread-1"),
            (EventKind.MESSAGE, '{"label": "rtvi-ai", "type": "bot-ready", "data": {}}'),
            (EventKind.BOT_STARTED, ""),
            *(output(1 + at, word) for at, word in enumerate(("Good", " day", "."))),
            (EventKind.BOT_STOPPED, ""),
            (EventKind.LINE_STARTED, "Hello [bold]there"),
            (EventKind.LINE_ENDED, "Hello [bold]there"),
            output(4, LONG),
            output(4, LONG),
            (EventKind.BOT_STARTED, ""),
            output(5, "It will"),
            (EventKind.LINE_STARTED, "Sorry, when?"),
            (EventKind.INTERRUPTION, ""),
        ):
            narration.heard(CallerEvent(kind, 0.0, detail))
    assert isinstance(console.file, StringIO)
    shown = re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", console.file.getvalue())
    return re.sub(r" *\d+\.\d s  ", "", shown.replace("\r", "\n")).splitlines()


def test_in_a_pipe_each_thing_is_one_plain_line() -> None:
    assert told(Console(file=StringIO(), width=80)) == [
        "starting the service ...",
        "call thread-1",
        "bot: Good day.",
        "caller: Hello [bold]there",
        f"bot: {LONG}",
        "bot: It will",
        "caller: Sorry, when? (interrupts)",
        "bot: [cut off here]",
    ]


def test_on_a_terminal_long_words_hang_below_each_other() -> None:
    console = Console(file=StringIO(), width=60, force_terminal=True, color_system=None)
    lines = [line.rstrip() for line in told(console)]
    begun = next(at for at, line in enumerate(lines) if line.startswith("bot ") and "sorry" in line)
    assert re.match(" " * len("  0.0 s  caller  ") + r"\w", lines[begun + 1])
    assert max(len(line) for line in lines if "speaks" not in line) <= 60
