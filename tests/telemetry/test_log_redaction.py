"""Of what Pipecat logs, its own words are kept and what was put into them is not."""

from __future__ import annotations

import ast
from pathlib import Path

import pipecat.processors.frame_processor as frame_processor
import pytest

from flow.telemetry.log_redaction import code_text

SECRET = "my card number is 1234"
SOURCE = """
logger.error(f"{self} exception sending data: {e.__class__.__name__} ({e}), state: {state}")
logger.warning("Idle timeout detected.")
logger.warning(f"{self}: not speaking [{text}] of {self.name}")
logger.warning(
    f"{self} is slow,"
    " and says nothing"
)
message = f"{error.processor} error: {error.error}"
logger.error(message)
logger.error(unknown)
logger.error("Failed: {}", text)
logger.error("Failed {")
logger.error(text + "!")
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "service.py"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize(
    ("code", "message", "text"),
    [
        (
            'logger.error(f"{self} exception',
            f"llm#0 exception sending data: RuntimeError ({SECRET}), state: open",
            "llm#0 exception sending data: RuntimeError (...), state: ...",
        ),
        ('logger.warning("Idle', "Idle timeout detected.", "Idle timeout detected."),
        (
            'logger.warning(f"{self}: not',
            f"tts: not speaking [{SECRET}] of tts",
            "tts: not speaking [...] of ...",
        ),
        ("logger.warning(\n", "tts is slow, and says nothing", "tts is slow, and says nothing"),
        ("logger.error(message)", f"stt error: {SECRET}", "stt error: ..."),
        ("logger.error(unknown)", SECRET, None),
        ('logger.error("Failed: {}"', f"Failed: {SECRET}", "Failed: ..."),
        ('logger.error("Failed {")', "Failed {", "Failed {"),
        ("logger.error(text", f"{SECRET}!", None),
        ('logger.error(f"{self} exception', f"something else {SECRET}", None),
        (
            'logger.error(f"{self} exception',
            f"{SECRET} exception sending data: A (b), state: c",
            "... exception sending data: ... (...), state: ...",
        ),
    ],
)
def test_words_of_the_code_are_kept_and_values_are_not(
    source: Path, code: str, message: str, text: str | None
) -> None:
    line = SOURCE[: SOURCE.index(code)].count("\n") + 1
    assert code_text(str(source), line, message) == text


def test_where_there_is_no_source_nothing_is_told(tmp_path: Path) -> None:
    assert code_text("<string>", 3, SECRET) is None
    assert code_text(str(tmp_path / "nowhere.py"), 3, SECRET) is None


def test_what_pipecat_says_of_a_failed_service_is_kept() -> None:
    path = frame_processor.__file__
    module = ast.parse(Path(path).read_text())
    (line,) = [
        node.lineno
        for node in ast.walk(module)
        if isinstance(node, ast.Call) and ast.unparse(node) == "logger.error(error_message)"
    ]
    assert code_text(path, line, f"stt error: {SECRET}") == "stt error: ..."
    said = code_text(path, line, f"stt exception (/x/base.py:12): {SECRET}")
    assert said == "stt exception (...:...): ..."
