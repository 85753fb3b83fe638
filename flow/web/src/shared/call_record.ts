import type { Api } from "./api";
import type { LedgerRow, Thread } from "./types";

/** A call with its rows of the ledger. */
export interface CallRecord {
  thread: Thread;
  events: LedgerRow[];
}

/** The call at `path`. Its rows are asked for last, so that of a final one none is missing. */
export async function loadCallRecord(api: Api, path: string, signal: AbortSignal): Promise<CallRecord> {
  const thread = await api.get<Thread>(path, {}, signal);
  const { events } = await api.get<{ events: LedgerRow[] }>(`${path}/usage`, {}, signal);
  return { thread, events };
}
