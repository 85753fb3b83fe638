import { duration, words } from "../shared/format";
import type { Recording } from "../shared/types";

/** The sound of a call, or where it is. */
export function RecordingLink({ recording }: { recording: Recording }) {
  if (!recording.url) return <>{recording.status ? words(recording.status) : "–"}</>;
  return (
    <>
      <a href={recording.url} target="_blank" rel="noreferrer">
        Listen
      </a>{" "}
      {duration(recording.seconds)}
      {recording.complete === false && <span class="text-warn"> incomplete</span>}
    </>
  );
}
