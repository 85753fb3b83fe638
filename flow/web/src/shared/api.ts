import { Problem } from "./problem";
import { type ServerEvent, serverEvents } from "./server_events";

export type Query = Record<string, string | number | boolean | null | undefined>;

/** The public API, asked with one key. What is not 2xx is thrown as a `Problem`. */
export class Api {
  private readonly key: string;

  constructor(key: string) {
    this.key = key;
  }

  get<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
    return this.json<T>("GET", path + queryString(query), undefined, signal);
  }

  post<T>(path: string, body: unknown = {}): Promise<T> {
    return this.json<T>("POST", path, body);
  }

  patch<T>(path: string, body: unknown): Promise<T> {
    return this.json<T>("PATCH", path, body);
  }

  put<T>(path: string, body: unknown): Promise<T> {
    return this.json<T>("PUT", path, body);
  }

  delete(path: string): Promise<void> {
    return this.json<void>("DELETE", path);
  }

  /** The server-sent events at `path` that come after the one with `lastId`, to their end. */
  async *events(path: string, lastId: string, signal: AbortSignal): AsyncGenerator<ServerEvent> {
    const headers: Record<string, string> = { Accept: "text/event-stream" };
    if (lastId) headers["Last-Event-ID"] = lastId;
    const { body } = await this.send("GET", path, headers, undefined, signal);
    if (body !== null) yield* serverEvents(body);
  }

  /** The answer as a file, for a download. */
  async file(path: string, query: Query, accept: string): Promise<Blob> {
    const response = await this.send("GET", path + queryString(query), { Accept: accept });
    return readable(response.blob());
  }

  private async json<T>(
    method: string,
    path: string,
    body?: unknown,
    signal?: AbortSignal,
  ): Promise<T> {
    const headers: Record<string, string> = { Accept: "application/json" };
    if (body !== undefined) headers["Content-Type"] = "application/json";
    const response = await this.send(method, path, headers, body, signal);
    return response.status === 204 ? (undefined as T) : readable(response.json(), signal);
  }

  private async send(
    method: string,
    path: string,
    headers: Record<string, string>,
    body?: unknown,
    signal?: AbortSignal,
  ): Promise<Response> {
    const request: RequestInit = {
      method,
      headers: { ...headers, Authorization: `Bearer ${this.key}` },
      cache: "no-store",
      credentials: "omit",
    };
    if (body !== undefined) request.body = JSON.stringify(body);
    if (signal !== undefined) request.signal = signal;
    const response = await fetch(path, request).catch((error: unknown) => {
      if (signal?.aborted) throw error;
      throw Problem.unreachable();
    });
    if (!response.ok) throw await Problem.of(response);
    return response;
  }
}

/** The body of an answer: it may break off, or be a proxy's page. */
function readable<T>(body: Promise<T>, signal?: AbortSignal): Promise<T> {
  return body.catch((error: unknown) => {
    if (signal?.aborted) throw error;
    throw new Problem({ code: "unreadable", detail: "The server's answer cannot be read." }, 0);
  });
}

function queryString(query: Query): string {
  const pairs = Object.entries(query).filter(([, value]) => value != null && value !== "");
  const text = new URLSearchParams(pairs.map(([name, value]) => [name, String(value)]));
  return pairs.length ? `?${text}` : "";
}
