/** What somebody chooses before a call, and the join that it makes. */
import type { CallSettings, Way } from "./call";

export const CASCADE = ["stt", "llm", "tts"] as const;
export type Part = (typeof CASCADE)[number] | "realtime";

export const PART_NAMES: Record<Part, string> = {
  stt: "Speech to text",
  llm: "Language model",
  tts: "Voice",
  realtime: "Speech-to-speech model",
};

/** Empty is the default. */
export interface PartChoice {
  provider: string;
  model: string;
  voice: string;
}

export interface Choices {
  agent: string;
  /** A speech-to-speech model takes no text. */
  agentTakesText: boolean;
  product: string;
  greeting: string;
  systemPrompt: string;
  language: string;
  /** Lines of `name = value`. */
  variables: string;
  isSpeechToSpeech: boolean;
  parts: Record<Part, PartChoice>;
  way: "either" | Way;
  microphone: string;
}

const DEFAULT: PartChoice = { provider: "", model: "", voice: "" };

export function firstChoices(microphone: string): Choices {
  return {
    agent: "",
    agentTakesText: true,
    product: "",
    greeting: "",
    systemPrompt: "",
    language: "",
    variables: "",
    isSpeechToSpeech: false,
    parts: { stt: DEFAULT, llm: DEFAULT, tts: DEFAULT, realtime: DEFAULT },
    way: "either",
    microphone,
  };
}

/** Said where neither the form nor an agent has a greeting, so that somebody speaks first. */
const GREETING = "Hello! What can I do for you?";

export function settingsOf(choices: Choices): CallSettings {
  const { agent, product, way } = choices;
  const join: CallSettings["join"] = { bot: botOf(choices), metadata: { page: "talk" } };
  if (agent) join["agent"] = agent;
  if (product) join["product"] = product;
  const variables = variablesOf(choices.variables);
  if (Object.keys(variables).length) join["variables"] = variables;
  return {
    join,
    takesText: !choices.isSpeechToSpeech && choices.agentTakesText,
    ways: way === "either" ? ["webrtc", "websocket"] : [way],
    microphone: choices.microphone,
  };
}

function botOf(choices: Choices): Record<string, unknown> {
  const { agent, parts, isSpeechToSpeech } = choices;
  const bot: Record<string, unknown> = {};
  const greeting = choices.greeting.trim() || (agent ? "" : GREETING);
  if (greeting) bot["greeting"] = greeting;
  if (choices.systemPrompt.trim()) bot["system_prompt"] = choices.systemPrompt.trim();
  if (choices.language.trim()) bot["language"] = choices.language.trim();
  if (isSpeechToSpeech) return { ...bot, realtime: given(parts.realtime) };
  for (const part of CASCADE) {
    const chosen = given(parts[part]);
    if (Object.keys(chosen).length) bot[part] = chosen;
  }
  return bot;
}

function given(choice: PartChoice): Record<string, string> {
  return Object.fromEntries(Object.entries(choice).filter(([, value]) => value.trim()));
}

function variablesOf(text: string): Record<string, string> {
  const pairs = text
    .split("\n")
    .map((line) => line.split("="))
    .filter(([name, ...value]) => name?.trim() && value.length)
    .map(([name, ...value]) => [name?.trim(), value.join("=").trim()]);
  return Object.fromEntries(pairs);
}
