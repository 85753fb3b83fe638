import type { RefObject } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { duration, moment } from "../shared/format";
import type { Recording, Thread, Turn } from "../shared/types";
import { Card } from "./parts";

/** The sound of a call as it is played: where its turns are in it, and which of them sounds. */
export interface Sound {
  audio: RefObject<HTMLAudioElement | null>;
  /** Where it is read; null while it cannot be. */
  source: string | null;
  /** The `seq` of the turn that is played. */
  playing: number | null;
  /** The seconds from the recording's beginning to that of a turn. */
  offsetOf: (turn: Turn) => number;
  play: (turn: Turn) => void;
  /** The sound has come to another place. */
  moved: () => void;
  /** Read it from a new address, and go on where it was. */
  renew: () => void;
}

/** The sound of a call that was recorded. `reload` asks for the call again, with a new link. */
export function useSound(thread: Thread, reload: () => void): Sound {
  const { recording } = thread;
  const audio = useRef<HTMLAudioElement>(null);
  const [playing, setPlaying] = useState<number | null>(null);
  const { source, drop } = useLink(thread);
  const goOnAt = useRef<number | null>(null);
  const begin = Date.parse(recording?.started_at ?? "");
  const offsetOf = (turn: Turn) => Math.max(0, (Date.parse(turn.started_at) - begin) / 1000);
  const moved = () => {
    const at = audio.current?.currentTime ?? 0;
    const last = thread.transcript.filter((turn) => offsetOf(turn) <= at).at(-1);
    setPlaying(at > 0 ? (last?.seq ?? null) : null);
  };
  const play = (turn: Turn) => {
    if (audio.current === null) return;
    audio.current.currentTime = offsetOf(turn);
    setPlaying(turn.seq);
    // Refused where there is nothing to play, which the player itself says.
    void audio.current.play().catch(() => undefined);
  };
  const renew = () => {
    goOnAt.current = audio.current?.currentTime ?? null;
    drop();
    reload();
  };
  useEffect(() => {
    if (audio.current === null || source === null || goOnAt.current === null) return;
    audio.current.currentTime = goOnAt.current;
    goOnAt.current = null;
    void audio.current.play().catch(() => undefined);
  }, [source]);
  return { audio, source, playing, offsetOf, play, moved, renew };
}

/** The link that was given first, until it is dropped: each answer has another one. */
function useLink({ workflow_thread_id: id, recording }: Thread) {
  const held = useRef<string | null>(null);
  if (!recording?.url) held.current = null;
  else held.current ??= playable(recording.url, id);
  const drop = () => {
    held.current = null;
  };
  return { source: held.current, drop };
}

/** The service's own links have its public name; it is asked by the name that this page has. */
function playable(url: string, threadId: string): string {
  const path = `/api/bot/${threadId}/recording`;
  const { pathname, search } = new URL(url);
  return pathname.endsWith(path) ? path + search : url;
}

/** The sound of a call with its player, or what there is instead. */
export function RecordingCard({ recording, sound }: { recording: Recording; sound: Sound }) {
  return (
    <Card title="Recording" aside={<Aside recording={recording} />}>
      {sound.source === null ? (
        <p class="muted">{stateOf(recording)}</p>
      ) : (
        <Player recording={recording} sound={sound} source={sound.source} />
      )}
    </Card>
  );
}

function Aside({ recording: { status, seconds, kept_until: until } }: { recording: Recording }) {
  if (status !== "ready") return null;
  return (
    <span class="muted small">
      {duration(seconds)}
      {until && `, kept until ${moment(until)}`}
    </span>
  );
}

function Player(props: { recording: Recording; sound: Sound; source: string }) {
  const { recording, sound, source } = props;
  const [hasFailed, setFailed] = useState(false);
  useEffect(() => setFailed(false), [source]);
  const fail = () => {
    const isOver = Date.parse(recording.expires_at ?? "") <= Date.now();
    if (isOver && !hasFailed) sound.renew();
    setFailed(true);
  };
  return (
    <div class="stack-tight">
      <audio
        ref={sound.audio}
        class="player"
        controls
        preload="metadata"
        aria-label="Recording of the call"
        src={source}
        onTimeUpdate={sound.moved}
        onSeeked={sound.moved}
        onError={fail}
      />
      {hasFailed && (
        <div class="row" role="alert">
          <span class="text-warn">The recording cannot be played: it does not come, or its link is over.</span>
          <button type="button" class="button button-small" onClick={sound.renew}>
            Fetch it anew
          </button>
        </div>
      )}
      {recording.complete === false && (
        <p class="text-warn">Some of what sounded is missing: a process or its disk failed meanwhile.</p>
      )}
      <p class="muted small">
        The caller is on the left, the bot on the right. The times in the transcript lead to their places.{" "}
        <a href={source} target="_blank" rel="noreferrer">
          Open the file
        </a>
      </p>
    </div>
  );
}

function stateOf(recording: Recording): string {
  switch (recording.status) {
    case "recording":
      return "The call is being recorded.";
    case "storing":
      return "The recording is being stored.";
    case "none":
      return "Nothing sounded on the call.";
    case "failed":
      return "Nothing is left of it: the machine that recorded the call is gone.";
    case "deleted":
      return `It was deleted on ${moment(recording.deleted_at)}.`;
    case "ready":
      return Date.parse(recording.kept_until ?? "") <= Date.now()
        ? "Its time is over: it is being deleted."
        : "It is stored, but cannot be reached at the moment. Load the page again in a while.";
  }
}
