import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";
import { words } from "../shared/format";
import { Failure, Loading } from "../shared/states";
import type { Status } from "../shared/types";
import type { Loaded } from "../shared/use_load";
import type { Listed, Paged } from "./list";

/** The head of a page. Its title is read out when a link leads here. */
export function PageHead(props: {
  title: string;
  text?: ComponentChildren;
  children?: ComponentChildren;
}) {
  const heading = useRef<HTMLHeadingElement>(null);
  useEffect(() => {
    document.title = `${props.title} · Flow`;
    heading.current?.focus({ preventScroll: true });
  }, [props.title]);
  return (
    <header class="page-head">
      <div>
        <h1 ref={heading} tabIndex={-1}>
          {props.title}
        </h1>
        {props.text && <p class="muted">{props.text}</p>}
      </div>
      {props.children && <div class="row">{props.children}</div>}
    </header>
  );
}

export function Card(props: {
  title?: string;
  aside?: ComponentChildren;
  flush?: boolean;
  children: ComponentChildren;
}) {
  return (
    <section class="card">
      {props.title && (
        <div class="card-head">
          <h2>{props.title}</h2>
          {props.aside}
        </div>
      )}
      <div class={props.flush ? "card-body-flush" : "card-body"}>{props.children}</div>
    </section>
  );
}

/** One number, large, and what to know of it. */
export function Stat(props: { label: string; value: string; note: string; tone?: string }) {
  return (
    <div class="card stat">
      <span class="stat-label">{props.label}</span>
      <span class={props.tone ? `stat-value text-${props.tone}` : "stat-value"}>{props.value}</span>
      <span class="stat-note">{props.note}</span>
    </div>
  );
}

/** What was loaded, or why it is not there yet. */
export function Shown<T>(props: {
  of: Loaded<T>;
  rows?: number;
  children: (data: T) => ComponentChildren;
}) {
  const { data, problem, reload } = props.of;
  return (
    <>
      {problem && <Failure problem={problem} retry={reload} />}
      {data !== null ? props.children(data) : !problem && <Loading rows={props.rows ?? 4} />}
    </>
  );
}

const TONES: Record<string, string> = {
  completed: "good",
  in_call: "info",
  connecting: "info",
  failed: "bad",
  expired: "warn",
  cancelled: "",
};

export function StatusBadge({ status }: { status: Status }) {
  const isLive = status === "in_call" || status === "connecting";
  return (
    <Badge tone={TONES[status] ?? ""}>
      {isLive && <span class="dot dot-live" aria-hidden="true" />}
      {words(status)}
    </Badge>
  );
}

export function Badge({ tone = "", children }: { tone?: string; children: ComponentChildren }) {
  return <span class={tone ? `badge badge-${tone}` : "badge"}>{children}</span>;
}

/** The way to the other pages of a list. */
export function Pager({ of: list }: { of: Listed<Paged> }) {
  const { pages } = list;
  const next = list.data?.next_cursor ?? null;
  if (pages.number === 1 && next === null) return null;
  return (
    <nav class="pager" aria-label="Pages">
      <button
        type="button"
        class="button button-small"
        disabled={pages.number === 1}
        onClick={pages.back}
      >
        Newer
      </button>
      <span class="muted">Page {pages.number}</span>
      <button
        type="button"
        class="button button-small"
        disabled={next === null}
        onClick={() => next !== null && pages.next(next)}
      >
        Older
      </button>
    </nav>
  );
}

export function Select(props: {
  label: string;
  value: string;
  options: readonly (readonly [value: string, label: string])[];
  onChange: (value: string) => void;
}) {
  return (
    <label class="field">
      <span>{props.label}</span>
      <select
        class="input"
        value={props.value}
        onChange={(event) => props.onChange(event.currentTarget.value)}
      >
        {props.options.map(([value, label]) => (
          <option key={value} value={value}>
            {label}
          </option>
        ))}
      </select>
    </label>
  );
}

export function DayField(props: { label: string; value: string; onChange: (day: string) => void }) {
  return (
    <label class="field">
      <span>{props.label}</span>
      <input
        class="input"
        type="date"
        value={props.value}
        onChange={(event) => props.onChange(event.currentTarget.value)}
      />
    </label>
  );
}
