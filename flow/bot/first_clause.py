"""Cutting replies into what a voice is given at a time: a clause first, then whole sentences."""

from __future__ import annotations

import re

from pipecat.utils.text.base_text_aggregator import Aggregation, TextType
from pipecat.utils.text.simple_text_aggregator import SimpleTextAggregator

# Fewer words than that are over before the rest can be spoken, and sound torn off.
FEWEST_WORDS = 4

_CLAUSE_END = re.compile(r"[,;:\u2013\u2014]\s$")


class FirstClauseAggregator(SimpleTextAggregator):
    """Pipecat's aggregator of sentences, which lets the first clause of a reply go by itself.

    A voice that has the first words can begin while the model goes on with the sentence.
    """

    _is_first = True

    async def _check_sentence_with_lookahead(
        self, char: str, *, protected_end: int = 0
    ) -> Aggregation | None:
        found = await super()._check_sentence_with_lookahead(char, protected_end=protected_end)
        if found is None and self._is_first and self._is_clause():
            found = Aggregation(text=self._text.strip(), type=TextType.SENTENCE)
            await self.reset()  # type: ignore[no-untyped-call]
        if found is not None:
            self._is_first = False
        return found

    def _is_clause(self) -> bool:
        return (
            _CLAUSE_END.search(self._text) is not None and len(self._text.split()) >= FEWEST_WORDS
        )

    async def flush(self) -> Aggregation | None:
        """What is left of a reply, which is over."""
        self._is_first = True
        return await super().flush()

    async def handle_interruption(self) -> None:
        """Forget what is left of a reply that was cut off."""
        self._is_first = True
        await super().handle_interruption()  # type: ignore[no-untyped-call]
