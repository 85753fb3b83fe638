/** What of a call is seldom changed, folded up. */
import { useEffect, useState } from "preact/hooks";
import type { Api } from "../shared/api";
import { useLoad } from "../shared/use_load";
import { CASCADE, type Choices, type Part, type PartChoice } from "./choices";
import { type Microphone, microphones } from "./microphone";
import { type ModelList, PartFields } from "./stack_fields";

interface Fields {
  choices: Choices;
  onChange: (choices: Choices) => void;
}

/** What the bot is made of, loaded when somebody wants to change it. */
export function Models({ api, choices, onChange }: Fields & { api: Api }) {
  const [isOpen, setOpen] = useState(false);
  return (
    <details class="more" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>
        Models <span class="muted">{isChanged(choices) ? "as chosen" : "the defaults"}</span>
      </summary>
      {isOpen && <ModelFields api={api} choices={choices} onChange={onChange} />}
    </details>
  );
}

function isChanged(choices: Choices): boolean {
  const isNamed = Object.values(choices.parts).some((part) => part.provider || part.voice);
  return choices.isSpeechToSpeech || isNamed;
}

function ModelFields({ api, choices, onChange }: Fields & { api: Api }) {
  const product = choices.product || "voice_bot";
  const models = useLoad((signal) => api.get<ModelList>("/api/models", { product }, signal), [product]);
  if (models.problem) return <p class="form-message">{models.problem.message}</p>;
  if (models.data === null) return <p class="muted">Loading…</p>;
  const { parts } = models.data;
  const shown: readonly Part[] = choices.isSpeechToSpeech ? ["realtime"] : CASCADE;
  const setPart = (part: Part, choice: PartChoice) =>
    onChange({ ...choices, parts: { ...choices.parts, [part]: choice } });
  return (
    <div class="stack more-body">
      {parts.realtime.default !== null && (
        <fieldset class="choices">
          <legend class="label">Made of</legend>
          {([false, true] as const).map((isSpeechToSpeech) => (
            <label class="check" key={String(isSpeechToSpeech)}>
              <input
                type="radio"
                name="kind"
                checked={choices.isSpeechToSpeech === isSpeechToSpeech}
                onChange={() => onChange({ ...choices, isSpeechToSpeech })}
              />
              {isSpeechToSpeech
                ? "One model that hears and speaks"
                : "Speech to text, language model, voice"}
            </label>
          ))}
        </fieldset>
      )}
      {shown.map((part) => (
        <PartFields
          part={part}
          models={parts[part]}
          choice={choices.parts[part]}
          onChange={(choice) => setPart(part, choice)}
          key={part}
        />
      ))}
    </div>
  );
}

/** By what the call is heard, and how it gets to the server. */
export function ConnectionFields({ choices, onChange }: Fields) {
  const [found, setFound] = useState<Microphone[]>([]);
  useEffect(() => {
    const look = () => void microphones().then(setFound);
    look();
    navigator.mediaDevices?.addEventListener("devicechange", look);
    return () => navigator.mediaDevices?.removeEventListener("devicechange", look);
  }, []);
  return (
    <details class="more">
      <summary>Microphone and connection</summary>
      <div class="form-grid more-body">
        <label class="field">
          <span>Microphone</span>
          <select
            class="input"
            value={choices.microphone}
            onChange={(event) => onChange({ ...choices, microphone: event.currentTarget.value })}
          >
            <option value="">The system's own choice</option>
            {found.map((one) => (
              <option value={one.id} key={one.id}>
                {one.label}
              </option>
            ))}
          </select>
        </label>
        <label class="field">
          <span>Connection</span>
          <select
            class="input"
            value={choices.way}
            onChange={(event) =>
              onChange({ ...choices, way: event.currentTarget.value as Choices["way"] })
            }
          >
            <option value="either">WebRTC, else WebSocket</option>
            <option value="webrtc">WebRTC</option>
            <option value="websocket">WebSocket</option>
          </select>
        </label>
      </div>
    </details>
  );
}
