import { useEffect, useRef, useState } from "preact/hooks";
import { duration, seconds } from "../shared/format";
import type { Call } from "./call";
import type { Conversation } from "./conversation";
import { HangUpIcon, MicrophoneIcon, MutedIcon, SendIcon } from "./icons";
import { Announcer, LiveTranscript } from "./transcript";

/** A call that is being connected; `call` is null until the bot is ready. */
export function Live(props: {
  call: Call | null;
  /** Whether the browser is asking for the microphone. */
  isAsking: boolean;
  conversation: Conversation;
  takesText: boolean;
  isRecorded: boolean;
  onHangUp: () => void;
}) {
  const { call, conversation } = props;
  const [isMuted, setMuted] = useState(false);
  const mute = () => {
    call?.mute(!isMuted);
    setMuted(!isMuted);
  };
  useMuteKeys(mute);
  const hangUp = useRef<HTMLButtonElement>(null);
  const muteButton = useRef<HTMLButtonElement>(null);
  useEffect(() => {
    (call === null ? hangUp : muteButton).current?.focus({ preventScroll: true });
  }, [call === null]);

  return (
    <div class="live">
      <h1 class="visually-hidden">{call === null ? "Connecting" : "Your call"}</h1>
      <section class="card stage" aria-label="The call">
        <div class="speakers">
          <Speaker name="You" side="caller" call={call} isOn={conversation.callerSpeaks && !isMuted} isOff={isMuted} />
          <p class="stage-state" role="status">
            {stateOf(props, isMuted)}
          </p>
          <Speaker name="Bot" side="bot" call={call} isOn={conversation.botSpeaks} isOff={call === null} />
        </div>
        <div class="stage-facts">
          <Timer isRunning={call !== null} />
          {call !== null && <span>{call.way === "webrtc" ? "WebRTC" : "WebSocket"}</span>}
          {props.isRecorded && <span>recorded</span>}
          {conversation.latencies.length > 0 && (
            <span>
              last reply after <strong>{seconds(conversation.latencies.at(-1))}</strong>
            </span>
          )}
        </div>
        <div class="stage-controls">
          <button
            ref={muteButton}
            type="button"
            class={isMuted ? "button button-large button-muted" : "button button-large"}
            aria-pressed={isMuted}
            aria-keyshortcuts="M Space"
            disabled={call === null}
            onClick={mute}
          >
            {isMuted ? <MutedIcon /> : <MicrophoneIcon />}
            {isMuted ? "Muted" : "Mute"}
          </button>
          <button ref={hangUp} type="button" class="button button-large button-hang-up" onClick={props.onHangUp}>
            <HangUpIcon />
            {call === null ? "Cancel" : "Hang up"}
          </button>
        </div>
        <p class="muted small stage-hint">
          <kbd>M</kbd> or <kbd>Space</kbd> mutes
        </p>
      </section>
      <section class="card live-words">
        <LiveTranscript lines={conversation.lines}>
          {conversation.botThinks && (
            <p class="thinking" aria-hidden="true">
              <i />
              <i />
              <i />
            </p>
          )}
        </LiveTranscript>
        {props.takesText && call !== null && <TextField call={call} refusal={conversation.refusal} />}
      </section>
      <Announcer lines={conversation.lines} />
    </div>
  );
}

function stateOf(
  props: { call: Call | null; isAsking: boolean; conversation: Conversation },
  isMuted: boolean,
): string {
  const { callerSpeaks, botSpeaks, botThinks, lines } = props.conversation;
  if (props.isAsking) return "Allow the microphone…";
  if (props.call === null) return "Connecting…";
  if (botSpeaks) return "The bot speaks";
  if (isMuted) return "You are muted";
  if (callerSpeaks) return "You speak";
  if (botThinks) return "The bot thinks";
  return lines.length ? "It's your turn" : "Connected";
}

/** M and Space, unless they are meant for what has the focus. */
function useMuteKeys(mute: () => void) {
  const latest = useRef(mute);
  latest.current = mute;
  useEffect(() => {
    const pressed = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      const isMeant = event.key.toLowerCase() === "m" || event.key === " ";
      if (!isMeant || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
      if (target.closest("input, textarea, select, [contenteditable]")) return;
      if (event.key === " " && target.closest("button, a, summary")) return;
      event.preventDefault();
      latest.current();
    };
    addEventListener("keydown", pressed);
    return () => removeEventListener("keydown", pressed);
  }, []);
}

/** Who speaks, as a disc whose ring grows with the loudness. The words beside it say the same. */
function Speaker(props: {
  name: string;
  side: "caller" | "bot";
  call: Call | null;
  isOn: boolean;
  isOff: boolean;
}) {
  const { call, side, isOff } = props;
  const disc = useRef<HTMLDivElement>(null);
  useEffect(() => {
    if (call === null) return;
    let frame = 0;
    const draw = () => {
      const level = isOff ? 0 : call.levels()[side];
      disc.current?.style.setProperty("--level", level.toFixed(3));
      frame = requestAnimationFrame(draw);
    };
    draw();
    return () => cancelAnimationFrame(frame);
  }, [call, side, isOff]);
  const state = [props.isOn && "speaker-on", isOff && "speaker-off"].filter(Boolean).join(" ");
  return (
    <div class={`speaker speaker-${side} ${state}`} ref={disc}>
      <div class="speaker-disc" aria-hidden="true">
        <span class="meter">
          <i />
          <i />
          <i />
          <i />
          <i />
        </span>
      </div>
      <span class="speaker-name">{props.name}</span>
    </div>
  );
}

function Timer({ isRunning }: { isRunning: boolean }) {
  const [secs, setSecs] = useState(0);
  useEffect(() => {
    if (!isRunning) return;
    const begun = performance.now();
    const timer = setInterval(() => setSecs((performance.now() - begun) / 1000), 500);
    return () => clearInterval(timer);
  }, [isRunning]);
  return (
    <span class="timer" role="timer" aria-label="Length of the call">
      {duration(Math.floor(secs))}
    </span>
  );
}

function TextField({ call, refusal }: { call: Call; refusal: string | null }) {
  const [text, setText] = useState("");
  const send = (event: SubmitEvent) => {
    event.preventDefault();
    if (!text.trim()) return;
    void call.type(text.trim());
    setText("");
  };
  return (
    <form class="type" onSubmit={send}>
      <label class="visually-hidden" for="typed">
        Type instead of speaking
      </label>
      <input
        id="typed"
        class="input"
        value={text}
        maxLength={4000}
        placeholder="Type instead of speaking"
        autoComplete="off"
        onInput={(event) => setText(event.currentTarget.value)}
      />
      <button type="submit" class="button" disabled={!text.trim()}>
        <SendIcon />
        <span class="visually-hidden">Send</span>
      </button>
      <p class="form-message" role="alert">
        {refusal}
      </p>
    </form>
  );
}
