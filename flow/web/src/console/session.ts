import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { Api } from "../shared/api";
import type { CallerKey } from "../shared/types";

/** Who looks at the console. */
export interface Session {
  api: Api;
  key: CallerKey;
  signOut: (why?: string) => void;
}

export const SessionContext = createContext<Session | null>(null);

export function useSession(): Session {
  const session = useContext(SessionContext);
  if (session === null) throw new Error("A page of the console is shown without a session.");
  return session;
}
