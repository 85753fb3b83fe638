/** What the API says when something is wrong: RFC 9457, with Flow's `code`. */
export interface ProblemDetails {
  title?: string;
  status?: number;
  detail?: string;
  code?: string;
  request_id?: string | null;
  retry_after?: number | null;
  errors?: { field: string; message: string }[] | null;
}

/** A request that failed, as an error whose message can be shown to people. */
export class Problem extends Error {
  readonly status: number;
  readonly code: string;
  readonly requestId: string | null;
  readonly retryAfterSecs: number | null;
  readonly fields: { field: string; message: string }[];

  constructor(details: ProblemDetails, status: number) {
    super(details.detail ?? details.title ?? `The server answered with ${status}.`);
    this.name = "Problem";
    this.status = status;
    this.code = details.code ?? "unknown";
    this.requestId = details.request_id ?? null;
    this.retryAfterSecs = details.retry_after ?? null;
    this.fields = details.errors ?? [];
  }

  /** Whether the key itself is not, or no longer, good. */
  get isAboutTheKey(): boolean {
    return this.status === 401 || this.code === "disabled_api_key";
  }

  /** Whether asking again may help, without a change of anything. */
  get mayPass(): boolean {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }

  /** The problem of an answer that is not 2xx, whatever its body is. */
  static async of(response: Response): Promise<Problem> {
    const details: ProblemDetails = await response.json().catch(() => ({}));
    return new Problem(details, response.status);
  }

  /** There is no answer; its status is 0. */
  static unreachable(): Problem {
    return new Problem(
      { code: "unreachable", detail: "The server cannot be reached. Is it running?" },
      0,
    );
  }

  /** Any error as a problem: what is not one of the server's is a fault of the page's own. */
  static from(error: unknown): Problem {
    if (error instanceof Problem) return error;
    console.error(error);
    return new Problem({ code: "page_failed", detail: `This page has failed: ${error}` }, 0);
  }
}
