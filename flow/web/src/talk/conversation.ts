/** The conversation as the page shows it, made of what the bot's side tells. */

/** A piece of what the bot says; `spoken` is how much of it has been heard. */
export interface Segment {
  id: number | null;
  text: string;
  spoken: string;
}

export interface CallerLine {
  who: "caller";
  id: number;
  /** What has been understood for good. */
  text: string;
  /** What is being understood, and may still change. */
  interim: string;
  typed: boolean;
}

export interface BotLine {
  who: "bot";
  id: number;
  segments: Segment[];
  /** Whether it is done speaking, and whether it was cut off. */
  done: boolean;
  interrupted: boolean;
  /** From the end of the caller's words to the first sound. */
  latencySecs: number | null;
}

export type Line = CallerLine | BotLine;

export interface Conversation {
  lines: readonly Line[];
  callerSpeaks: boolean;
  botSpeaks: boolean;
  /** The caller has finished and the bot has not begun. */
  botThinks: boolean;
  /** Of each reply so far, in seconds. */
  latencies: readonly number[];
  /** A wait that was told before the reply that it belongs to. */
  untoldLatency: number | null;
  /** Why the server did not take what was typed last. */
  refusal: string | null;
}

export const NOTHING_SAID: Conversation = {
  lines: [],
  callerSpeaks: false,
  botSpeaks: false,
  botThinks: false,
  latencies: [],
  untoldLatency: null,
  refusal: null,
};

export interface BotOutput {
  text: string;
  segment_id?: number;
  spoken_status?: string;
  spoken_progress?: { accumulated_text: string };
}

export type Told =
  | { type: "callerStarted" | "callerStopped" | "botStarted" | "botStopped" }
  | { type: "callerSaid"; text: string; final: boolean }
  | { type: "callerTyped"; text: string }
  | { type: "refused"; why: string }
  | { type: "botSaid"; output: BotOutput }
  | { type: "latency"; secs: number };

/** The conversation after something was told. */
export function after(before: Conversation, told: Told): Conversation {
  switch (told.type) {
    case "callerStarted":
      return { ...cutOff(before), callerSpeaks: true, botThinks: false };
    case "callerStopped":
      return { ...before, callerSpeaks: false, botThinks: !before.botSpeaks };
    case "botStarted":
      return { ...before, botSpeaks: true, botThinks: false };
    case "botStopped":
      return { ...doneSpeaking(before), botSpeaks: false };
    case "callerSaid":
      return { ...before, lines: callerSaid(before.lines, told.text.trim(), told.final) };
    case "callerTyped": {
      const line: CallerLine = { ...newCallerLine(before.lines), text: told.text, typed: true };
      const cut = cutOff(before);
      return { ...cut, lines: [...cut.lines, line], botThinks: true, refusal: null };
    }
    case "refused":
      return { ...before, botThinks: false, refusal: told.why };
    case "botSaid":
      return botSaid(before, told.output);
    case "latency":
      return latency(before, told.secs);
  }
}

/** A line as text, as far as it is certain. */
export function textOf(line: Line): string {
  return line.who === "caller"
    ? line.text
    : line.segments.map((one, index) => gap(one, index) + (one.spoken || one.text)).join("");
}

/** What stands before a piece: some models tell theirs word by word, and marks by themselves. */
export function gap(segment: Segment, index: number): string {
  return index === 0 || /^[\s,.!?;:…)’]/.test(segment.text) ? "" : " ";
}

function newCallerLine(lines: readonly Line[]): CallerLine {
  return { who: "caller", id: lines.length, text: "", interim: "", typed: false };
}

function withLast(lines: readonly Line[], last: Line): Line[] {
  return [...lines.slice(0, -1), last];
}

function callerSaid(lines: readonly Line[], text: string, final: boolean): readonly Line[] {
  if (!text) return lines;
  const last = lines.at(-1);
  const goesOn = last?.who === "caller" && !last.typed;
  const line = goesOn ? last : newCallerLine(lines);
  const said: CallerLine = final
    ? { ...line, text: [line.text, text].filter(Boolean).join(" "), interim: "" }
    : { ...line, interim: text };
  return goesOn ? withLast(lines, said) : [...lines, said];
}

function botSaid(before: Conversation, output: BotOutput): Conversation {
  const { lines } = before;
  const last = lines.at(-1);
  const id = output.segment_id ?? null;
  const isDone = output.spoken_status === "completed";
  const spoken = isDone ? output.text : (output.spoken_progress?.accumulated_text ?? "");
  const segment: Segment = { id, text: output.text, spoken };
  // Words of a segment that has begun belong to its line, also when the caller speaks meanwhile.
  const at = id === null ? -1 : lines.findIndex((line) => has(line, id));
  if (at >= 0) {
    const changed = lines.map((line, index) =>
      index === at && line.who === "bot"
        ? { ...line, segments: line.segments.map((one) => (one.id === id ? segment : one)) }
        : line,
    );
    return { ...before, lines: changed };
  }
  if (last?.who === "bot" && !last.interrupted && (before.botSpeaks || !last.done)) {
    return { ...before, lines: withLast(lines, { ...last, segments: [...last.segments, segment] }) };
  }
  const line: BotLine = {
    who: "bot",
    id: lines.length,
    segments: [segment],
    done: false,
    interrupted: false,
    latencySecs: before.untoldLatency,
  };
  return { ...before, lines: [...lines, line], untoldLatency: null };
}

function has(line: Line, segment: number): boolean {
  return line.who === "bot" && line.segments.some((one) => one.id === segment);
}

function doneSpeaking(before: Conversation): Conversation {
  const last = before.lines.at(-1);
  if (last?.who !== "bot" || last.done) return before;
  return { ...before, lines: withLast(before.lines, { ...last, done: true }) };
}

/** What the bot was saying ends where it was heard last. */
function cutOff(before: Conversation): Conversation {
  const last = before.lines.at(-1);
  if (last?.who !== "bot" || last.done) return before;
  return {
    ...before,
    lines: withLast(before.lines, { ...last, done: true, interrupted: true }),
  };
}

function latency(before: Conversation, secs: number): Conversation {
  const latencies = [...before.latencies, secs];
  const last = before.lines.at(-1);
  if (last?.who !== "bot" || last.latencySecs !== null || last.done) {
    return { ...before, latencies, untoldLatency: secs };
  }
  const lines = withLast(before.lines, { ...last, latencySecs: secs });
  return { ...before, latencies, lines };
}
