import type { Agent, AgentModel } from "../shared/agents";
import { words } from "../shared/format";
import { Badge } from "./parts";

const PARTS = [
  ["stt", "Speech to text"],
  ["llm", "Language model"],
  ["tts", "Voice"],
  ["realtime", "Speech to speech"],
] as const;
const SHOWN_ELSEWHERE = new Set<string>(["system_prompt", "greeting", "tools", ...PARTS.map(([part]) => part)]);

/** What an agent's bot is made of, and its settings beside what it says. */
export function AgentModels({ bot }: { bot: NonNullable<Agent["bot"]> }) {
  const parts = PARTS.filter(([part]) => part in bot || (part !== "realtime" && !bot.realtime));
  const settings = Object.entries(bot).filter(
    ([name, value]) => !SHOWN_ELSEWHERE.has(name) && value != null,
  );
  return (
    <dl class="facts">
      {parts.map(([part, label]) => (
        <>
          <dt>{label}</dt>
          <dd>
            <Model of={bot[part]} />
          </dd>
        </>
      ))}
      {settings.map(([name, value]) => (
        <>
          <dt>{words(name)}</dt>
          <dd>{plain(value)}</dd>
        </>
      ))}
    </dl>
  );
}

function Model({ of: model }: { of: AgentModel | null | undefined }) {
  const { provider, model: name, voice, ...rest } = model ?? {};
  const named = [provider, name, voice].filter(Boolean).join(" · ");
  const settings = Object.entries(rest).filter(([, value]) => value != null);
  if (!named && !settings.length) return <span class="muted">The product's</span>;
  return (
    <span class="row">
      {named || <span class="muted">The product's</span>}
      {settings.map(([setting, value]) => (
        <Badge key={setting}>
          {words(setting)}: {plain(value)}
        </Badge>
      ))}
    </span>
  );
}

function plain(value: unknown): string {
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
