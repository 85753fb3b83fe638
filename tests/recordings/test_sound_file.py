"""From journals to sound files: nothing moves, and what breaks off is kept."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import av
import numpy as np
import numpy.typing as npt
import pytest

from flow.recordings.journal import (
    BOT,
    CALLER,
    Journal,
    JournalWriter,
    PartHeader,
    Sound,
    locked,
)
from flow.recordings.sound_file import RATE, SoundFile, join_parts, write_part
from flow.recordings.timeline import Piece


def header(rate_caller: int = 16_000, rate_bot: int = 24_000) -> PartHeader:
    return PartHeader(uuid4(), uuid4(), datetime.now(UTC), 30, rate_caller, rate_bot)


def noise(secs: float, rate: int, seed: int = 1) -> npt.NDArray[np.int16]:
    """Sound that is like itself at one place only, without what no resampler keeps."""
    coarse = np.random.default_rng(seed).normal(0, 6_000, round(secs * 2_000) + 2)
    at = np.arange(round(secs * rate)) * 2_000 / rate
    return np.interp(at, np.arange(len(coarse)), coarse).clip(-32_000, 32_000).astype(np.int16)


def samples(path: Path) -> npt.NDArray[np.int16]:
    with av.open(str(path)) as container:
        (stream,) = container.streams.audio
        assert (stream.codec_context.name, stream.rate) == ("flac", RATE)
        frames = [frame.to_ndarray().reshape(-1, 2) for frame in container.decode(audio=0)]
    return np.concatenate(frames)


def lag_of(channel: npt.NDArray[np.int16], wanted: npt.NDArray[np.int16]) -> int:
    """The sample of ``channel`` that ``wanted`` begins at, by cross-correlation."""
    size = 1 << (len(channel) + len(wanted)).bit_length()
    spectrum = np.fft.rfft(channel.astype(float), size) * np.conj(
        np.fft.rfft(wanted.astype(float), size)
    )
    return int(np.argmax(np.fft.irfft(spectrum, size)[: len(channel)]))


def part(journal: Journal | None, writer: JournalWriter, path: Path) -> SoundFile:
    (found,) = writer.folder.iterdir()
    with locked(found) as file:
        assert file is not None, "nobody writes it any more"
        return write_part(file, path)[1]


@pytest.mark.parametrize(
    ("rate_caller", "rate_bot"), [(16_000, 24_000), (8_000, 8_000), (48_000, 16_000)]
)
def test_both_sides_are_where_they_were(rate_caller: int, rate_bot: int, tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "journals")
    journal = writer.open(header(rate_caller, rate_bot))
    heard, played = noise(1.5, rate_caller, 1), noise(0.8, rate_bot, 2)
    journal.append([Sound(CALLER, Piece(round(0.7 * rate_caller), heard.tobytes()))], 2.2)
    journal.append([Sound(BOT, Piece(round(3.1 * rate_bot), played.tobytes()))], 4.5)
    done = journal.close(5.0)
    assert done is not None
    done.result()
    made = part(journal, writer, tmp_path / "part.flac")
    both = samples(made.path)
    assert made.whole
    assert made.seconds == pytest.approx(len(both) / RATE, abs=0.001)
    assert made.seconds == pytest.approx(5.0, abs=0.01)
    assert abs(lag_of(both[:, 0], noise(1.5, RATE, 1)) / RATE - 0.7) < 0.001
    assert abs(lag_of(both[:, 1], noise(0.8, RATE, 2)) / RATE - 3.1) < 0.001
    assert not both[: round(0.69 * RATE), 0].any()
    assert not both[: round(3.09 * RATE), 1].any()


def test_a_journal_that_breaks_off_keeps_what_it_had(tmp_path: Path) -> None:
    writer = JournalWriter(tmp_path / "journals")
    journal = writer.open(header())
    for second in range(4):
        sound = noise(1, 24_000, second)
        journal.append([Sound(BOT, Piece(second * 24_000, sound.tobytes()))], second + 1)
    writer.close()
    (path,) = (tmp_path / "journals").iterdir()
    with locked(path) as held:
        assert held is None, "its process lives"
    journal._leave()
    path.write_bytes(path.read_bytes()[:-1_000])
    made = part(journal, writer, tmp_path / "part.flac")
    assert not made.whole
    assert made.seconds == 3.0
    both = samples(made.path)
    assert (both[:, 1] == np.concatenate([noise(1, 24_000, n) for n in range(3)])).all()


@pytest.mark.parametrize("limits", [{"spared_bytes": 2**62}, {"most_waiting_bytes": 10}])
def test_a_disk_without_room_or_time_leaves_a_part_that_is_not_whole(
    limits: dict[str, int], tmp_path: Path
) -> None:
    folder = tmp_path / "journals"
    writer = JournalWriter(folder, **limits)
    journal = writer.open(header())
    journal.append([Sound(BOT, Piece(0, noise(1, 24_000).tobytes()))], 1)
    done = journal.close(1)
    assert done is not None
    done.result()
    if "spared_bytes" in limits:
        assert [*folder.iterdir()] == []
    else:
        assert not part(journal, writer, tmp_path / "part.flac").whole


def test_parts_of_two_processes_are_one_recording(tmp_path: Path) -> None:
    files = []
    for n, secs in enumerate([2.0, 1.0]):
        writer = JournalWriter(tmp_path / str(n))
        journal = writer.open(header())
        sound = noise(secs, 24_000, n)
        journal.append([Sound(BOT, Piece(0, sound.tobytes()))], secs)
        journal.close(secs)
        writer.close()
        files.append(part(journal, writer, tmp_path / f"{n}.flac"))
    whole = join_parts(
        [(0.0, files[0].path), (4.25, files[1].path)], tmp_path / "call.flac", whole=True
    )
    both = samples(whole.path)
    assert whole.seconds == 5.25
    assert (both[: 2 * RATE, 1] == noise(2.0, 24_000, 0)).all()
    assert not both[2 * RATE : round(4.25 * RATE)].any()
    assert (both[round(4.25 * RATE) :, 1] == noise(1.0, 24_000, 1)).all()
