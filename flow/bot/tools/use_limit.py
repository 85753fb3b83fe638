"""How many uses of tools in a row a model has before it must talk to the caller."""

from __future__ import annotations

USES_IN_A_ROW = 20
"""Since the caller, or the call's customer, last said something.

More than a task of many steps takes between two sentences of a caller (look something up, book it,
write it down), and few enough that a model which does nothing else stops within a minute.
"""


class UseLimit:
    """Counts the uses of tools in a row; several that a model asks for at once count singly.

    A model that goes on in spite of what it has been told is not asked for another reply: each
    would be another use, until the call is over.
    """

    def __init__(self) -> None:
        self._used = 0
        self._is_used_up = self._is_told = False

    def begin_again(self) -> None:
        """Somebody has spoken to the bot."""
        self._used = 0
        self._is_used_up = self._is_told = False

    def note_calls(self) -> None:
        """A generation of the model calls tools; its uses follow."""
        self._is_told = self._is_used_up

    def take(self) -> bool:
        """Count a use; whether it is still one of those that there are."""
        self._used += 1
        self._is_used_up = self._used > USES_IN_A_ROW
        return not self._is_used_up

    @property
    def is_reply_wanted(self) -> bool:
        """Whether the model is to say something about a use."""
        return not self._is_told
