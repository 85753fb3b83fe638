/** What of a call is seldom changed, folded up. */
import { useEffect, useState } from "preact/hooks";
import { Select } from "../console/parts";
import type { Api } from "../shared/api";
import { useLoad } from "../shared/use_load";
import { CASCADE, type Choices, type Part, type PartChoice, usualProduct } from "./choices";
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
        Models <span class="muted">{whichModels(choices)}</span>
      </summary>
      {isOpen && <ModelFields api={api} choices={choices} onChange={onChange} />}
    </details>
  );
}

function whichModels(choices: Choices): string {
  const isNamed = Object.values(choices.parts).some((part) => part.provider || part.voice);
  if (choices.isSpeechToSpeech || isNamed) return "as chosen";
  return choices.agent ? "the agent's own" : "the defaults";
}

function ModelFields({ api, choices, onChange }: Fields & { api: Api }) {
  const product = choices.product || usualProduct(choices);
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

const WAYS: [Choices["way"], string][] = [
  ["either", "WebRTC, else WebSocket"],
  ["webrtc", "WebRTC"],
  ["websocket", "WebSocket"],
];

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
        <Select
          label="Microphone"
          value={choices.microphone}
          options={[
            ["", "The system's own choice"],
            ...found.map(({ id, label }) => [id, label] as const),
          ]}
          onChange={(microphone) => onChange({ ...choices, microphone })}
        />
        <Select
          label="Connection"
          value={choices.way}
          options={WAYS}
          onChange={(way) => onChange({ ...choices, way: way as Choices["way"] })}
        />
      </div>
    </details>
  );
}
