import { useState } from "preact/hooks";
import { Api } from "../shared/api";
import { Problem } from "../shared/problem";
import { ThemeSwitch } from "../shared/theme_switch";

/** A form for an API key, which is tried before it is taken. */
export function SignIn(props: {
  title: string;
  why: string | null;
  onKey: (key: string) => void;
}) {
  const { why, onKey } = props;
  const [message, setMessage] = useState(why);
  const [isTrying, setTrying] = useState(false);

  const submit = async (event: SubmitEvent) => {
    event.preventDefault();
    const key = String(new FormData(event.currentTarget as HTMLFormElement).get("key")).trim();
    if (!key) {
      setMessage("Enter an API key.");
      return;
    }
    setTrying(true);
    setMessage(null);
    try {
      await new Api(key).get("/api/key");
      onKey(key);
    } catch (error) {
      setMessage(Problem.from(error).message);
      setTrying(false);
    }
  };

  return (
    <main class="sign-in">
      <div class="card sign-in-card">
        <div class="brand">
          <Logo />
          <span>Flow</span>
        </div>
        <h1>{props.title}</h1>
        <p class="muted">
          Enter an API key. It is kept for this tab alone and sent to nobody but this server.
        </p>
        <form class="stack" onSubmit={submit} noValidate>
          <label class="field">
            <span>API key</span>
            <input
              class="input mono"
              type="password"
              name="key"
              autoComplete="off"
              spellcheck={false}
              autoFocus
              aria-invalid={message !== null}
              aria-describedby="sign-in-message"
            />
          </label>
          <p id="sign-in-message" class="form-message" role="alert">
            {message}
          </p>
          <button type="submit" class="button button-primary" disabled={isTrying}>
            {isTrying ? "Signing in…" : "Sign in"}
          </button>
        </form>
      </div>
      <ThemeSwitch />
    </main>
  );
}

export function Logo() {
  return (
    <svg viewBox="0 0 32 32" width="28" height="28" aria-hidden="true">
      <rect width="32" height="32" rx="8" class="logo-tile" />
      <g class="logo-bars">
        <path d="M8 14v4M13 9v14M18 12v8M23.500 14.500v3" />
      </g>
    </svg>
  );
}
