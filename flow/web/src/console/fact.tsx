import type { ComponentChildren } from "preact";

/** One fact in the bar at the head of a page about one thing. */
export function Fact({ label, children }: { label: string; children: ComponentChildren }) {
  return (
    <div class="fact">
      <span class="muted small">{label}</span>
      <span class="break">{children}</span>
    </div>
  );
}
