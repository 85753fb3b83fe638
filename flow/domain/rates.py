"""What units of work cost, and what an event's quantities come to.

Amounts are exact: a price times a count, moved by powers of ten. Only a price per minute or hour
need not end; such a quotient is cut to `PLACES` decimal places, half to even.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from flow.domain.usage import Cost, Kind, Quantities

PLACES = Decimal("1e-18")


@dataclass(frozen=True, slots=True)
class Rate:
    """USD per million tokens.

    ``above`` holds (tokens, USD) steps: where the gross input is *more* than that many tokens,
    every token of the request costs that. Of several, the highest step that is passed counts.
    """

    usd: Decimal
    above: tuple[tuple[int, Decimal], ...] = ()

    def of(self, tokens: int, gross_input: int) -> Decimal:
        """The price of so many tokens in a request with so large an input."""
        usd = self.usd
        for start, higher in self.above:
            if gross_input > start:
                usd = higher
        return (usd * tokens).scaleb(-6)


@dataclass(frozen=True, slots=True)
class TokenRates:
    """The rates of one model. One that is missing falls back to the next wider one.

    Cached audio falls back to the cache, then to audio, then to input; the other input rates to
    input; reasoning and audio output to output. ``per_request`` is USD for each request.
    """

    input: Rate | None = None
    cache_read: Rate | None = None
    cache_write: Rate | None = None
    output: Rate | None = None
    reasoning: Rate | None = None
    audio_input: Rate | None = None
    audio_cache_read: Rate | None = None
    audio_output: Rate | None = None
    per_request: Decimal = Decimal(0)

    def cost(self, kind: Kind, quantities: Quantities) -> Cost | None:
        """What a generation of these quantities costs, or ``None``: not every token has a rate.

        Cached audio is part of ``cache_read``, reasoning of ``output``, and what a request costs
        whatever its size, of ``input``.
        """
        if kind is not Kind.LLM:
            return None
        q = quantities
        gross = q.input_tokens + q.cache_read_tokens + q.cache_write_tokens
        reasoning = min(q.reasoning_tokens, q.output_tokens - q.output_audio_tokens)
        cached_audio = self.audio_cache_read or self.cache_read or self.audio_input or self.input
        amounts = [
            _amount(rate, tokens, gross)
            for rate, tokens in (
                (self.input, q.input_tokens - q.input_audio_tokens),
                (self.cache_read or self.input, q.cache_read_tokens - q.cache_read_audio_tokens),
                (cached_audio, q.cache_read_audio_tokens),
                (self.cache_write or self.input, q.cache_write_tokens),
                (self.output, q.output_tokens - q.output_audio_tokens - reasoning),
                (self.reasoning or self.output, reasoning),
                (self.audio_input or self.input, q.input_audio_tokens),
                (self.audio_output or self.output, q.output_audio_tokens),
            )
        ]
        known = [amount for amount in amounts if amount is not None]
        if len(known) < len(amounts):
            return None
        text, read, read_audio, write, said, thought, heard, spoken = known
        return Cost(
            input=text + self.per_request,
            cache_read=read + read_audio,
            cache_write=write,
            output=said + thought,
            audio_input=heard,
            audio_output=spoken,
        )


@dataclass(frozen=True, slots=True)
class UnitRate:
    """USD for ``per`` units of one measure, for voices, ears and calls."""

    usd: Decimal
    measure: Literal["audio_seconds", "characters"]
    per: int

    def cost(self, kind: Kind, quantities: Quantities) -> Cost | None:
        """What that much costs, or ``None``: the work was measured, but not in this unit."""
        if kind is Kind.LLM:
            return None
        amount = Decimal(getattr(quantities, self.measure))
        if not amount and (quantities.audio_seconds or quantities.characters):
            return None
        return speech_cost(kind, self.usd * amount / self.per)


def speech_cost(kind: Kind, usd: Decimal) -> Cost:
    """The cost of a voice, of ears or of a call, cut to `PLACES` where it does not end."""
    exponent = usd.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -18:
        usd = usd.quantize(PLACES)
    if kind is Kind.TTS:
        return Cost(tts=usd)
    return Cost(stt=usd) if kind is Kind.STT else Cost(call=usd)


def _amount(rate: Rate | None, tokens: int, gross_input: int) -> Decimal | None:
    if not tokens:
        return Decimal(0)
    return None if rate is None else rate.of(tokens, gross_input)
