import type { ComponentChildren } from "preact";
import { useLocation } from "preact-iso";
import { useEffect, useErrorBoundary, useState } from "preact/hooks";
import { Problem } from "../shared/problem";
import { Failure } from "../shared/states";
import { ThemeSwitch } from "../shared/theme_switch";
import { useSession } from "./session";
import { Logo } from "./sign_in";

const PAGES = [
  ["/console", "Overview"],
  ["/console/calls", "Calls"],
  ["/console/agents", "Agents"],
  ["/console/usage", "Usage"],
  ["/console/requests", "Gateway requests"],
  ["/console/limits", "Limits"],
] as const;
const OPERATOR_PAGES = [
  ["/console/operator/calls", "All calls"],
  ["/console/operator/usage", "All usage"],
  ["/console/operator/keys", "Keys"],
  ["/console/operator/teams", "Teams"],
  ["/console/operator/numbers", "Numbers"],
  ["/console/operator/webhooks", "Webhooks"],
  ["/console/operator/hosts", "Hosts"],
  ["/console/operator/ledger", "Ledger"],
] as const;

/** What is around each page: where one can go, who one is, and the way out. */
export function Layout({ children }: { children: ComponentChildren }) {
  const { key, signOut } = useSession();
  const isOperator = key.is_operator;
  const { path } = useLocation();
  const [isOpen, setOpen] = useState(false);
  useEffect(() => setOpen(false), [path]);

  return (
    <div class="shell">
      <a class="skip-link" href="#main">
        Skip to the page
      </a>
      <header class="sidebar" data-open={isOpen}>
        <div class="sidebar-head">
          <a class="brand" href="/console">
            <Logo />
            <span>Flow</span>
          </a>
          <button
            type="button"
            class="button button-small menu-button"
            aria-expanded={isOpen}
            aria-controls="menu"
            onClick={() => setOpen(!isOpen)}
          >
            Menu
          </button>
        </div>
        <div class="menu" id="menu">
          <nav aria-label="Console">
            <Links pages={PAGES} path={path} />
            {isOperator && (
              <div>
                <h2>Operator</h2>
                <Links pages={OPERATOR_PAGES} path={path} />
              </div>
            )}
          </nav>
          <div class="sidebar-foot">
            <div class="who">
              <strong class="break">{key.name ?? "Unnamed key"}</strong>
              <span class="muted small break">
                {key.team_id}
                {isOperator && " · operator"}
              </span>
            </div>
            <ThemeSwitch />
            <button type="button" class="button button-small" onClick={() => signOut()}>
              Sign out
            </button>
          </div>
        </div>
      </header>
      <main id="main" class="main" tabIndex={-1}>
        <Guarded>{children}</Guarded>
      </main>
    </div>
  );
}

/** The page; where it fails as it is drawn, what went wrong, until another one is gone to. */
function Guarded({ children }: { children: ComponentChildren }) {
  const { url } = useLocation();
  const [error, retry] = useErrorBoundary();
  useEffect(retry, [url]);
  if (error !== undefined) return <Failure problem={Problem.from(error)} retry={retry} />;
  return <>{children}</>;
}

function Links(props: { pages: readonly (readonly [string, string])[]; path: string }) {
  return (
    <ul>
      {props.pages.map(([to, label]) => {
        const isHere = props.path === to || (to !== "/console" && props.path.startsWith(`${to}/`));
        return (
          <li key={to}>
            <a href={to} aria-current={isHere ? "page" : undefined}>
              {label}
            </a>
          </li>
        );
      })}
    </ul>
  );
}
