import { useState } from "preact/hooks";
import { ActionProblem, useAction } from "./action";
import { Select } from "./parts";
import { useSession } from "./session";

const WAYS = [
  ["say", "Say it, word for word"],
  ["message", "An instruction to the bot"],
] as const;
const NOW: Record<string, readonly [field: string, label: string]> = {
  say: ["interrupt", "In place of what it is saying"],
  message: ["respond", "It answers at once"],
};

/** A form to speak through the bot of a running call, or to steer it. */
export function SpeakForm({ id }: { id: string }) {
  const { api } = useSession();
  const { isBusy, problem, run } = useAction();
  const [way, setWay] = useState("say");
  const [text, setText] = useState("");
  const [isNow, setNow] = useState(false);
  const [sent, setSent] = useState<string | null>(null);
  const [field, label] = NOW[way] ?? [];
  const send = (event: SubmitEvent) => {
    event.preventDefault();
    setSent(null);
    void run(async () => {
      const body = { text: text.trim(), ...(field && { [field]: isNow }) };
      const { status } = await api.post<{ status: string }>(`/api/bot/${id}/${way}`, body);
      setSent(status === "taken" ? "The bot has it." : "It is on its way to the bot.");
      setText("");
    });
  };
  return (
    <form class="stack-tight" onSubmit={send}>
      <Select label="What the bot does with it" value={way} options={WAYS} onChange={setWay} />
      <label class="field">
        <span>Text</span>
        <textarea
          class="input"
          rows={2}
          required
          maxLength={4000}
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
        />
      </label>
      <div class="row">
        <button type="submit" class="button" disabled={isBusy || !text.trim()}>
          Send
        </button>
        <label class="check">
          <input type="checkbox" checked={isNow} onChange={() => setNow(!isNow)} />
          {label}
        </label>
        <span class="muted" role="status">
          {sent}
        </span>
      </div>
      <ActionProblem problem={problem} />
    </form>
  );
}
