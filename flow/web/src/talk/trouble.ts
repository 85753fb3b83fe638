/** What went wrong, in words for whoever wants to talk: what it is, and what to do about it. */
import type { Problem } from "../shared/problem";

export interface Trouble {
  title: string;
  /** What to do. */
  text: string;
  /** What the server said, where that adds something. */
  said?: string;
  requestId?: string | null;
  /** Whether another key is needed. */
  needsKey?: boolean;
}

const ANOTHER_KEY = "Use another key, or ask whoever gave you this one.";

const BY_CODE: Record<string, [title: string, text: string]> = {
  budget_exceeded: ["This key's budget has no room for a call", "There may be room {when}. To talk before that, have the budget raised or use another key."],
  quota_exceeded: ["The quota has no room for a call", "There may be room {when}. To talk before that, have the quota raised or use another product."],
  concurrency_exceeded: ["This key has as many calls as it may have at once", "Hang up one of them, or try again {when}."],
  rate_limited: ["That were too many requests in a short time", "Try again {when}."],
  insufficient_permissions: ["This key may not use what you chose", "Choose another product, or have the permission added to the key."],
  model_not_allowed: ["The product does not allow this model", "Choose another model or another product."],
  unknown_product: ["There is no such product here", "Choose another product."],
  unknown_agent: ["This agent is not there any more", "Choose another one."],
  agent_archived: ["This agent is archived", "No new call can have it: choose another one."],
  model_unpriced: ["This key's budget cannot hold a model without a price", "Choose another model."],
  at_capacity: ["All lines are busy", "The server takes no more calls at the moment. Try again {when}."],
  shutting_down: ["The server is being restarted", "Try again {when}."],
  auth_unavailable: ["The server cannot check keys at the moment", "Nothing is wrong with yours. Try again {when}."],
  database_unavailable: ["The server cannot reach its database", "Try again {when}."],
  unreachable: ["The server cannot be reached", "Check your connection and that the server is running, then try again."],
  invalid_request: ["Something in the settings does not fit", "Change it and start again."],
};

/** What to do about an answer of the server. */
export function ofProblem(problem: Problem): Trouble {
  const { message: said, requestId } = problem;
  if (problem.isAboutTheKey) {
    return { title: "This key is not accepted", text: ANOTHER_KEY, said, requestId, needsKey: true };
  }
  const known = BY_CODE[problem.code];
  if (known === undefined) {
    const text = "Try again. If it stays, tell whoever runs this server the number below.";
    return { title: "The call could not be started", text, said, requestId };
  }
  const fields = problem.fields.map((each) => `${each.field}: ${each.message}`).join("\n");
  const [title, text] = known;
  return {
    title,
    text: text.replace("{when}", inWords(problem.retryAfterSecs)),
    ...(problem.status ? { said: fields || said } : {}),
    requestId,
  };
}

/** What to do where the page's address asks for an agent that is not there. */
export function noAgent(name: string): Trouble {
  return {
    title: `There is no agent called ${name}`,
    text: "It may be archived, or another team's. Choose one of those below, or none.",
  };
}

function inWords(secs: number | null): string {
  if (secs === null || secs <= 5) return "in a moment";
  if (secs < 90) return `in ${Math.ceil(secs)} seconds`;
  if (secs < 5400) return `in ${Math.ceil(secs / 60)} minutes`;
  if (secs < 129_600) return `in ${Math.ceil(secs / 3600)} hours`;
  return `in ${Math.ceil(secs / 86_400)} days`;
}

/** What to do about a microphone that a browser does not give, by the name of its error. */
export function ofMicrophone(error: unknown): Trouble {
  switch (error instanceof DOMException ? error.name : "") {
    case "NotAllowedError":
    case "SecurityError":
      return {
        title: "The microphone is blocked for this page",
        text: "Allow it in the browser: the icon beside the address leads to the page's permissions. Then start again.",
      };
    case "NotFoundError":
      return {
        title: "No microphone was found",
        text: "Connect one, or switch it on in the system's settings, and start again.",
      };
    case "OverconstrainedError":
      return {
        title: "The chosen microphone is gone",
        text: "Connect it again or choose another one below, and start again.",
      };
    case "NotReadableError":
    case "AbortError":
      return {
        title: "The microphone is in use",
        text: "Another program holds it. Close that, or choose another microphone, and start again.",
      };
    default:
      return {
        title: "This page gets no microphone",
        text: "Browsers give one to pages over https and to those of this machine (http://127.0.0.1) alone. Open the page that way.",
      };
  }
}

export const NOT_CONNECTED: Trouble = {
  title: "The call could not be connected",
  text: "The server was reached, but no sound. Try again, or choose WebSocket under “Microphone and connection”, which passes more firewalls.",
};

const LOST_TITLE = "The connection was lost";

/** Why a call ended that nobody hung up, by its `end_reason`; null where nothing is wrong. */
export function ofEnd(reason: string | null): Trouble | null {
  switch (reason) {
    case "caller_hung_up":
    case "ended_by_api":
    case "pipeline_ended":
    case "bot_hung_up":
      return null;
    case "budget_exceeded":
      return {
        title: "The budget of this key was used up during the call",
        text: "To talk on, have the budget raised or use another key.",
      };
    case "max_duration":
      return { title: "The call was as long as it may be", text: "Start another one to talk on." };
    case "idle_timeout":
      return {
        title: "The bot hung up because it heard nothing",
        text: "If you did speak, check that the right microphone is chosen and not muted.",
      };
    case "vendor_failure":
      return {
        title: "A service that the bot needs has failed",
        text: "Try again, or choose other models under “Models”.",
      };
    case "shutdown":
    case "process_lost":
    case "given_up":
      return { title: LOST_TITLE, text: "The server was stopped. Start another call." };
    case "error":
      return {
        title: "The bot has failed",
        text: "Try again. If it stays, the call's page in the console says what happened.",
      };
    default:
      return { title: LOST_TITLE, text: "Check your connection and start another call." };
  }
}
