/** What somebody chooses before a call, and the join that it makes. */
import { type Agent, textsOf, type Variable, variablesIn } from "../shared/agents";
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
  /** Null is a bot that is made in the form. */
  agent: Agent | null;
  product: string;
  greeting: string;
  systemPrompt: string;
  language: string;
  /** By their names. */
  variables: Record<string, string>;
  /** Lines of `name = value`, for variables that are in no text. */
  otherVariables: string;
  /** Empty is what the agent says, or not. */
  recording: "" | "yes" | "no";
  isSpeechToSpeech: boolean;
  parts: Record<Part, PartChoice>;
  way: "either" | Way;
  microphone: string;
}

const DEFAULT: PartChoice = { provider: "", model: "", voice: "" };

export function firstChoices(microphone: string): Choices {
  return {
    agent: null,
    product: "",
    greeting: "",
    systemPrompt: "",
    language: "",
    variables: {},
    otherVariables: "",
    recording: "",
    isSpeechToSpeech: false,
    parts: { stt: DEFAULT, llm: DEFAULT, tts: DEFAULT, realtime: DEFAULT },
    way: "either",
    microphone,
  };
}

/** Said where there is neither a greeting nor an agent, so that somebody speaks first. */
export const GREETING = "Hello! What can I do for you?";

export function settingsOf(choices: Choices): CallSettings {
  const { agent, product, way } = choices;
  const join: CallSettings["join"] = { bot: botOf(choices), metadata: { page: "talk" } };
  if (agent) join["agent"] = agent.id;
  if (product) join["product"] = product;
  if (choices.recording) join["recording"] = choices.recording === "yes";
  const variables = variablesOf(choices);
  if (Object.keys(variables).length) join["variables"] = variables;
  return {
    join,
    takesText: takesText(choices),
    ways: way === "either" ? ["webrtc", "websocket"] : [way],
    microphone: choices.microphone,
  };
}

/** The product of a call for which none is chosen. */
export function usualProduct({ agent }: Choices): string {
  return agent?.product ?? "voice_bot";
}

/** Whether the call will be recorded. */
export function isRecorded({ agent, recording }: Choices): boolean {
  return recording ? recording === "yes" : agent?.recording != null;
}

/** A speech-to-speech model takes no text; a part named in the form replaces that of an agent. */
function takesText({ agent, isSpeechToSpeech, parts }: Choices): boolean {
  if (isSpeechToSpeech) return false;
  return !agent?.bot?.realtime || CASCADE.some((part) => Object.keys(given(parts[part])).length > 0);
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

/** What the texts of the call need: the form's go before the agent's. */
export function neededVariables({ agent, greeting, systemPrompt }: Choices): Variable[] {
  const own = [
    ["bot.greeting", greeting.trim()],
    ["bot.system_prompt", systemPrompt.trim()],
  ] as const;
  const replaced = new Set<string>(own.filter(([, text]) => text).map(([field]) => field));
  const agents = (agent ? textsOf(agent) : []).filter(([field]) => !replaced.has(field));
  return variablesIn([...own, ...agents]).filter((variable) => !variable.isSystem);
}

/** What is left empty has its default. */
function variablesOf(choices: Choices): Record<string, string> {
  const filled = neededVariables(choices)
    .map(({ name }) => [name, choices.variables[name] ?? ""] as const)
    .filter(([, value]) => value);
  const others = choices.agent ? lines(choices.otherVariables) : {};
  return { ...others, ...Object.fromEntries(filled) };
}

function lines(text: string): Record<string, string> {
  const pairs = text
    .split("\n")
    .map((line) => line.split("="))
    .filter(([name, ...value]) => name?.trim() && value.length)
    .map(([name, ...value]) => [name?.trim(), value.join("=").trim()]);
  return Object.fromEntries(pairs);
}
