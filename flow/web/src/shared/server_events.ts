/** Server-sent events from a stream of bytes: `EventSource` itself cannot send a key in a header. */

export interface ServerEvent {
  type: string;
  data: string;
  id: string;
}

/** The server says something every 15 s; after so much silence there is nobody any more. */
const LONGEST_SILENCE_MS = 40_000;

/** https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream */
export async function* serverEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<ServerEvent> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  let id = "";
  try {
    for (;;) {
      const { value, done } = await inTime(reader.read());
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const blocks = rest.split(/\r?\n\r?\n/);
      rest = blocks.pop() ?? "";
      for (const block of blocks) {
        const event = parsed(block, id);
        id = event.id;
        if (event.data) yield event;
      }
    }
  } finally {
    void reader.cancel().catch(() => undefined);
  }
}

function parsed(block: string, lastId: string): ServerEvent {
  const event: ServerEvent = { type: "message", data: "", id: lastId };
  for (const line of block.split(/\r?\n/)) {
    const [, name = "", value = ""] = /^([^:]*):? ?(.*)$/.exec(line) ?? [];
    if (name === "event") event.type = value;
    if (name === "id") event.id = value;
    if (name === "data") event.data += event.data ? `\n${value}` : value;
  }
  return event;
}

function inTime<T>(answer: Promise<T>): Promise<T> {
  let timer = 0;
  const silence = new Promise<never>((_, reject) => {
    timer = window.setTimeout(() => reject(new Error("The stream is silent.")), LONGEST_SILENCE_MS);
  });
  return Promise.race([answer, silence]).finally(() => clearTimeout(timer));
}
