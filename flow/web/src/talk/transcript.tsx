import { useEffect, useRef, useState } from "preact/hooks";
import { seconds } from "../shared/format";
import type { BotLine, CallerLine, Line } from "./conversation";
import { gap, textOf } from "./conversation";

/** Both sides' words as they come; the newest is kept in sight. */
export function LiveTranscript({ lines, children }: { lines: readonly Line[]; children?: preact.ComponentChildren }) {
  const end = useRef<HTMLDivElement>(null);
  const newest = lines.at(-1);
  const grown = newest === undefined ? "" : JSON.stringify(newest);
  useEffect(() => {
    const box = end.current?.parentElement;
    if (box) box.scrollTop = box.scrollHeight;
  }, [grown, lines.length]);
  return (
    <div class="live-transcript" role="region" aria-label="Transcript" tabIndex={0}>
      {lines.length === 0 && <p class="muted live-empty">The words of both sides appear here.</p>}
      <ol class="transcript">
        {lines.map((line) => (
          <li class={line.who === "bot" ? "said said-bot" : "said said-caller"} key={line.id}>
            {line.who === "bot" ? <BotSaid line={line} /> : <CallerSaid line={line} />}
          </li>
        ))}
      </ol>
      {children}
      <div ref={end} />
    </div>
  );
}

function CallerSaid({ line }: { line: CallerLine }) {
  return (
    <>
      <div class="said-head">
        <strong>You</strong>
        {line.typed && <span class="muted small">typed</span>}
      </div>
      <p class="break">
        {line.text} {line.interim && <span class="interim">{line.interim} …</span>}
      </p>
    </>
  );
}

function BotSaid({ line }: { line: BotLine }) {
  return (
    <>
      <div class="said-head">
        <strong>Bot</strong>
        {line.latencySecs !== null && (
          <span class="badge" title="From the end of your words to the first sound">
            after {seconds(line.latencySecs)}
          </span>
        )}
        {line.interrupted && <span class="badge badge-info">interrupted</span>}
      </div>
      <p class="break">
        {line.segments.map((segment, index) => {
          const rest = segment.text.slice(segment.spoken.length);
          return (
            <span key={segment.id ?? index}>
              {gap(segment, index)}
              {segment.spoken}
              {rest && <span class="unspoken">{rest}</span>}
            </span>
          );
        })}
        {line.interrupted && " —"}
      </p>
    </>
  );
}

/** Says each line once to those who cannot see it, when it is complete. */
export function Announcer({ lines }: { lines: readonly Line[] }) {
  const said = useRef(0);
  const [words, setWords] = useState("");
  useEffect(() => {
    const complete = lines.filter((line, index) =>
      line.who === "bot" ? line.done : line.text && !line.interim && index < lines.length - 1,
    );
    const fresh = complete.filter((line) => line.id >= said.current);
    if (fresh.length === 0) return;
    said.current = Math.max(...fresh.map((line) => line.id)) + 1;
    setWords(
      fresh.map((line) => `${line.who === "bot" ? "Bot" : "You"}: ${textOf(line)}`).join(" "),
    );
  }, [lines]);
  return (
    <p class="visually-hidden" aria-live="polite">
      {words}
    </p>
  );
}
