import type { ComponentChildren } from "preact";
import type { Trouble } from "./trouble";

/** What went wrong and what to do, read out at once. */
export function TroubleNote({ trouble, children }: { trouble: Trouble; children?: ComponentChildren }) {
  return (
    <div class="failure failure-flat trouble" role="alert">
      <p class="failure-title">{trouble.title}</p>
      <p>{trouble.text}</p>
      {trouble.said && trouble.said !== trouble.title && (
        <p class="muted trouble-said">{trouble.said}</p>
      )}
      {trouble.requestId && (
        <p class="muted">
          request <code>{trouble.requestId}</code>
        </p>
      )}
      {children}
    </div>
  );
}
