import { render } from "preact";
import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";
import "../console/console.css";
import { Logo, SignIn } from "../console/sign_in";
import { Api } from "../shared/api";
import { Problem } from "../shared/problem";
import { storedKey } from "../shared/stored_key";
import "../shared/styles.css";
import { applyTheme } from "../shared/theme";
import { ThemeSwitch } from "../shared/theme_switch";
import { CallAccount } from "./account";
import { Call, type CallEvents, NotConnected } from "./call";
import { type Choices, firstChoices, isRecorded, settingsOf } from "./choices";
import { type Conversation, NOTHING_SAID } from "./conversation";
import { Live } from "./live";
import { askForMicrophone, chosenMicrophone } from "./microphone";
import { Setup } from "./setup";
import "./talk.css";
import { NOT_CONNECTED, ofMicrophone, ofProblem, type Trouble } from "./trouble";

type View =
  | { name: "setup"; trouble: Trouble | null }
  | { name: "call"; call: Call | null; isAsking: boolean }
  | { name: "ended"; threadId: string; isLost: boolean };

/** The key that `flow dev` gives its own page. */
function devKey(): string | null {
  return document.querySelector<HTMLMetaElement>('meta[name="flow-dev-key"]')?.content ?? null;
}

/** `?agent=NAME` in the page's address: its id, or its name. */
function wantedAgent(): string | null {
  return new URLSearchParams(location.search).get("agent");
}

function Talk() {
  const [key, setKey] = useState(() => storedKey.read() ?? devKey());
  const [why, setWhy] = useState<string | null>(null);
  if (key === null) {
    return (
      <SignIn
        title="Talk with a bot"
        why={why}
        onKey={(given) => {
          storedKey.keep(given);
          setKey(given);
        }}
      />
    );
  }
  // The console, one link away, finds it as well.
  storedKey.keep(key);
  const forget = (reason: string | null) => {
    storedKey.forget();
    setWhy(reason);
    setKey(null);
  };
  return <WithKey secret={key} forget={forget} />;
}

function WithKey({ secret, forget }: { secret: string; forget: (why: string | null) => void }) {
  const api = useMemo(() => new Api(secret), [secret]);
  const [choices, setChoices] = useState<Choices>(() => firstChoices(chosenMicrophone.read()));
  const [view, setView] = useState<View>({ name: "setup", trouble: null });
  const [conversation, setConversation] = useState<Conversation>(NOTHING_SAID);
  const starting = useRef<AbortController | null>(null);
  const isCalling = view.name === "call";
  const hasCalled = useRef(false);
  hasCalled.current ||= isCalling;
  useEffect(() => {
    document.title = `${{ setup: "Talk", call: "In a call", ended: "Account" }[view.name]} · Flow`;
  }, [view.name]);
  useHeldPage(isCalling ? view.call : null);

  const onTrouble = useCallback((trouble: Trouble) => setView({ name: "setup", trouble }), []);
  const change = (changed: Choices) => {
    chosenMicrophone.keep(changed.microphone);
    setChoices(changed);
  };
  const start = async () => {
    const ending = new AbortController();
    starting.current = ending;
    setConversation(NOTHING_SAID);
    setView({ name: "call", call: null, isAsking: true });
    const call = await begin(api, choices, ending.signal, {
      onMicrophone: () => setView({ name: "call", call: null, isAsking: false }),
      onConversation: setConversation,
      onLost: (threadId) => setView({ name: "ended", threadId, isLost: true }),
    });
    if (ending.signal.aborted) {
      if (call instanceof Call) void call.hangUp();
      return;
    }
    setView(call instanceof Call ? { name: "call", call, isAsking: false } : { name: "setup", trouble: call });
  };
  const hangUp = () => {
    if (view.name !== "call") return;
    if (view.call === null) {
      starting.current?.abort();
      setView({ name: "setup", trouble: null });
      return;
    }
    void view.call.hangUp();
    setView({ name: "ended", threadId: view.call.threadId, isLost: false });
  };

  return (
    <div class="talk-shell">
      <header class="talk-bar">
        <a class="brand" href="/talk">
          <Logo />
          <span>Flow</span>
        </a>
        <div class="row">
          <a class="button button-quiet button-small" href="/console">
            Console
          </a>
          {view.name === "setup" && devKey() === null && (
            <button type="button" class="button button-quiet button-small" onClick={() => forget(null)}>
              Use another key
            </button>
          )}
          <ThemeSwitch />
        </div>
      </header>
      <main class={`talk-main talk-${view.name}`}>
        {view.name === "setup" && (
          <Setup
            api={api}
            choices={choices}
            trouble={view.trouble}
            takesFocus={hasCalled.current}
            onChange={change}
            onStart={() => void start()}
            onKey={() => forget(null)}
            onTrouble={onTrouble}
            wanted={hasCalled.current ? null : wantedAgent()}
          />
        )}
        {view.name === "call" && (
          <Live
            call={view.call}
            isAsking={view.isAsking}
            conversation={conversation}
            takesText={settingsOf(choices).takesText}
            isRecorded={isRecorded(choices)}
            onHangUp={hangUp}
          />
        )}
        {view.name === "ended" && (
          <CallAccount
            api={api}
            threadId={view.threadId}
            isLost={view.isLost}
            onAgain={() => setView({ name: "setup", trouble: null })}
          />
        )}
      </main>
    </div>
  );
}

/** A call that has begun, or why there is none. */
async function begin(
  api: Api,
  choices: Choices,
  signal: AbortSignal,
  events: CallEvents & { onMicrophone: () => void },
): Promise<Call | Trouble | null> {
  try {
    await askForMicrophone(choices.microphone);
  } catch (error) {
    return ofMicrophone(error);
  }
  if (signal.aborted) return null;
  events.onMicrophone();
  try {
    return await Call.start(api, settingsOf(choices), events, signal);
  } catch (error) {
    if (signal.aborted) return null;
    return error instanceof NotConnected ? NOT_CONNECTED : ofProblem(Problem.from(error));
  }
}

/** Leaving the page hangs up, and is asked about first. */
function useHeldPage(call: Call | null) {
  useEffect(() => {
    if (call === null) return;
    const ask = (event: BeforeUnloadEvent) => event.preventDefault();
    const leave = () => void call.hangUp();
    addEventListener("beforeunload", ask);
    addEventListener("pagehide", leave);
    return () => {
      removeEventListener("beforeunload", ask);
      removeEventListener("pagehide", leave);
    };
  }, [call]);
}

applyTheme();
const root = document.getElementById("app");
if (root) render(<Talk />, root);
