/** Whether a WebRTC call still has a server: the transport itself tries for 20 seconds to find out. */

/** The bot's side sends sound all the time, silence as well: after so much of nothing something is wrong. */
const SILENT_SECS = 3;
/** An answer that does not come by then comes no more. */
const ANSWER_MS = 3_000;

/**
 * Calls `onGone` when no sound comes any more and the server does not answer either. `connection` is
 * the one that the call has at the time. Returns what ends the watch.
 */
export function watchServer(
  connection: () => RTCPeerConnection | null,
  onGone: () => void,
): () => void {
  let received = 0;
  let silentSecs = 0;
  const look = async () => {
    const before = received;
    received = await bytesReceived(connection());
    silentSecs = received === before ? silentSecs + 1 : 0;
    if (silentSecs === 0 || silentSecs % SILENT_SECS) return;
    await fetch("/healthz", { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MS) }).catch(onGone);
  };
  const timer = setInterval(() => void look(), 1_000);
  return () => clearInterval(timer);
}

async function bytesReceived(connection: RTCPeerConnection | null): Promise<number> {
  let bytes = 0;
  const stats = await connection?.getStats();
  stats?.forEach((one: RTCInboundRtpStreamStats) => {
    if (one.type === "inbound-rtp") bytes += one.bytesReceived ?? 0;
  });
  return bytes;
}
