import { useEffect, useState } from "preact/hooks";
import type { Api } from "../shared/api";
import { type CallRecord, loadCallRecord } from "../shared/call_record";
import { Problem } from "../shared/problem";
import type { ServerEvent } from "../shared/server_events";
import { goesOn, isFinal, type ToolCall, type Turn } from "../shared/types";
import type { Loaded } from "../shared/use_load";
import { useSessionLoad } from "./load";
import { useSession } from "./session";

const POLL_SECS = 2;
/** Of a call that is over but for its recording. */
const SLOW_POLL_SECS = 5;
const RETRY_MS = 2_000;
/** Events that come together lead to one request. */
const TOGETHER_MS = 100;

/** What the call's events have told, which a record loaded before does not have. */
interface News {
  turns: readonly Turn[];
  toolCalls: readonly ToolCall[];
}

const NO_NEWS: News = { turns: [], toolCalls: [] };

/**
 * A call as it goes on. With `events`, the path of its server-sent events, turns and tools are
 * there at once, and its account is asked for when it has changed; while no events come, and
 * without them, all is asked for every two seconds.
 */
export function useLiveCall(path: string, events: string | null): Loaded<CallRecord> {
  const { api } = useSession();
  const [isTold, setTold] = useState(false);
  const [news, setNews] = useState(NO_NEWS);
  const isSeen = useSeen();
  const call = useSessionLoad(
    (api, signal) => loadCallRecord(api, path, signal),
    [path],
    (record) => {
      if (record && isFinal(record.thread.status)) return goesOn(record.thread) ? SLOW_POLL_SECS : null;
      return isTold ? null : POLL_SECS;
    },
  );
  const isRunning = call.data !== null && !isFinal(call.data.thread.status);
  const { reload } = call;
  useEffect(() => {
    if (events === null || !isRunning || !isSeen) return;
    const ending = new AbortController();
    let asking = 0;
    setNews(NO_NEWS);
    const onEvent = (event: ServerEvent) => {
      if (event.type === "turn" || event.type === "tool_call") {
        setNews((before) => withEvent(before, event));
      } else {
        asking ||= window.setTimeout(() => {
          asking = 0;
          reload();
        }, TOGETHER_MS);
      }
    };
    void follow(api, events, ending.signal, { onEvent, onTold: setTold });
    return () => {
      ending.abort();
      clearTimeout(asking);
      setTold(false);
    };
  }, [api, events, isRunning, isSeen, reload]);
  return { ...call, data: call.data && withNews(call.data, news) };
}

/** Whether the page is looked at: a stream is one of few connections that a browser has. */
function useSeen(): boolean {
  const [isSeen, setSeen] = useState(!document.hidden);
  useEffect(() => {
    const look = () => setSeen(!document.hidden);
    document.addEventListener("visibilitychange", look);
    return () => document.removeEventListener("visibilitychange", look);
  }, []);
  return isSeen;
}

/** Tell the events until the last one, over as many connections as it takes. */
async function follow(
  api: Api,
  path: string,
  signal: AbortSignal,
  to: { onEvent: (event: ServerEvent) => void; onTold: (isTold: boolean) => void },
): Promise<void> {
  let lastId = "";
  while (!signal.aborted) {
    try {
      for await (const event of api.events(path, lastId, signal)) {
        if (signal.aborted) return;
        lastId = event.id;
        to.onTold(true);
        to.onEvent(event);
        if (event.type === "end") return;
      }
    } catch (error) {
      // Refused for good: there remains asking.
      if (!signal.aborted && error instanceof Problem && !error.mayPass) return to.onTold(false);
    }
    if (signal.aborted) return;
    to.onTold(false);
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

function withEvent(news: News, { type, data }: ServerEvent): News {
  const told: unknown = JSON.parse(data);
  if (type === "turn") return { ...news, turns: [...news.turns, told as Turn] };
  const call = { status: null, result: null, ...(told as object) } as ToolCall;
  return { ...news, toolCalls: [...news.toolCalls.filter(({ id }) => id !== call.id), call] };
}

/** A record with the news. What it has itself goes before: it knows more. */
export function withNews({ thread, events }: CallRecord, news: News): CallRecord {
  const said = new Set(thread.transcript.map(({ seq }) => seq));
  const turns = news.turns.filter(({ seq }) => !said.has(seq));
  const known = thread.tool_calls ?? [];
  const done = new Set(known.filter(({ outcome }) => outcome !== "running").map(({ id }) => id));
  const toolCalls = news.toolCalls.filter(({ id }) => !done.has(id));
  if (!turns.length && !toolCalls.length) return { thread, events };
  const newer = new Set(toolCalls.map(({ id }) => id));
  const transcript = [...thread.transcript, ...turns].sort((one, other) => one.seq - other.seq);
  return {
    thread: {
      ...thread,
      transcript,
      tool_calls: [...known.filter(({ id }) => !newer.has(id)), ...toolCalls],
    },
    events,
  };
}
