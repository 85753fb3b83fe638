import { render } from "preact";
import { LocationProvider, Route, Router } from "preact-iso";
import { useEffect, useMemo, useState } from "preact/hooks";
import { Api } from "../shared/api";
import { Failure, Loading } from "../shared/states";
import { storedKey } from "../shared/stored_key";
import "../shared/styles.css";
import { applyTheme } from "../shared/theme";
import type { CallerKey } from "../shared/types";
import { useLoad } from "../shared/use_load";
import "./console.css";
import { Layout } from "./layout";
import { AllCallsPage } from "./operator/calls";
import { HostsPage } from "./operator/hosts";
import { KeyPage } from "./operator/key";
import { KeysPage } from "./operator/keys";
import { LedgerGapsPage } from "./operator/ledger";
import { NewKeyPage } from "./operator/new_key";
import { NewNumberPage, NumberPage } from "./operator/number";
import { NumbersPage } from "./operator/numbers";
import { TeamPage, TeamsPage } from "./operator/teams";
import { WebhooksPage } from "./operator/webhooks";
import { AgentPage } from "./pages/agent";
import { AgentsPage } from "./pages/agents";
import { AnyCallPage, CallPage } from "./pages/call";
import { CallsPage } from "./pages/calls";
import { LimitsPage } from "./pages/limits";
import { NotFoundPage } from "./pages/not_found";
import { OverviewPage } from "./pages/overview";
import { RequestsPage } from "./pages/requests";
import { AllUsagePage, UsagePage } from "./pages/usage";
import { type Session, SessionContext } from "./session";
import { SignIn } from "./sign_in";

function Console() {
  const [secret, setSecret] = useState(storedKey.read());
  const [why, setWhy] = useState<string | null>(null);
  const signOut = (reason?: string) => {
    storedKey.forget();
    setWhy(reason ?? null);
    setSecret(null);
  };
  if (secret === null) {
    const signIn = (given: string) => {
      storedKey.keep(given);
      setSecret(given);
    };
    return <SignIn title="Sign in to the console" why={why} onKey={signIn} />;
  }
  return <SignedIn secret={secret} signOut={signOut} />;
}

function SignedIn(props: { secret: string; signOut: (why?: string) => void }) {
  const { secret, signOut } = props;
  const api = useMemo(() => new Api(secret), [secret]);
  const { data: key, problem, reload } = useLoad(
    (signal) => api.get<CallerKey>("/api/key", {}, signal),
    [secret],
  );
  useEffect(() => {
    if (problem?.isAboutTheKey) signOut(problem.message);
  }, [problem]);
  if (key === null && problem !== null) {
    return (
      <main class="main">
        <Failure problem={problem} retry={reload} />
      </main>
    );
  }
  if (key === null) return <Loading rows={6} />;
  const session: Session = { api, key, signOut };
  return (
    <SessionContext.Provider value={session}>
      <LocationProvider scope="/console">
        <Layout>
          <Router>
            <Route path="/console" component={OverviewPage} />
            <Route path="/console/calls" component={CallsPage} />
            <Route path="/console/calls/:id" component={CallPage} />
            <Route path="/console/agents" component={AgentsPage} />
            <Route path="/console/agents/:id" component={AgentPage} />
            <Route path="/console/usage" component={UsagePage} />
            <Route path="/console/requests" component={RequestsPage} />
            <Route path="/console/limits" component={LimitsPage} />
            <Route path="/console/operator/calls" component={AllCallsPage} />
            <Route path="/console/operator/calls/:id" component={AnyCallPage} />
            <Route path="/console/operator/usage" component={AllUsagePage} />
            <Route path="/console/operator/keys" component={KeysPage} />
            <Route path="/console/operator/keys/new" component={NewKeyPage} />
            <Route path="/console/operator/keys/:id" component={KeyPage} />
            <Route path="/console/operator/teams" component={TeamsPage} />
            <Route path="/console/operator/teams/:id" component={TeamPage} />
            <Route path="/console/operator/numbers" component={NumbersPage} />
            <Route path="/console/operator/numbers/new" component={NewNumberPage} />
            <Route path="/console/operator/numbers/:number" component={NumberPage} />
            <Route path="/console/operator/webhooks" component={WebhooksPage} />
            <Route path="/console/operator/hosts" component={HostsPage} />
            <Route path="/console/operator/ledger" component={LedgerGapsPage} />
            <Route default component={NotFoundPage} />
          </Router>
        </Layout>
      </LocationProvider>
    </SessionContext.Provider>
  );
}

applyTheme();
const root = document.getElementById("app");
if (root) render(<Console />, root);
