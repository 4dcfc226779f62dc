/** What the page says of the tunnel's state, and what to do next. Pure: a state in, texts out. */

/** @typedef {import("../peer/peer.js").State} State */

/**
 * - `retry`: connect again with the same code
 * - `code`: enter another code
 * - `token`: enter an access token of the signal server
 *
 * @typedef {"retry" | "code" | "token"} Action
 */

/**
 * @typedef {object} Notice
 * @property {"busy" | "warning" | "error"} tone
 * @property {string} title
 * @property {string} text
 * @property {string} hint What to do next.
 * @property {Action[]} actions The first one is the likeliest.
 */

const START_SERVE = "Start `llmtunnel serve` there, or ask the person who gave you the code.";
const BY_ITSELF = "This page tries again by itself.";

/**
 * What a final failure means, by the error's name.
 *
 * @type {Record<string, {title: string, hint: string, actions: Action[]}>}
 */
const FAILURES = {
  AuthenticationFailed: {
    title: "This code does not work",
    hint: "Compare the code with the one that serve shows. Each start of serve may have a new one.",
    actions: ["code", "retry"],
  },
  Unwelcome: {
    title: "The other side does not let this page in",
    hint: "Ask the person who runs serve for a new code.",
    actions: ["code"],
  },
  VersionMismatch: {
    title: "The versions do not match",
    hint: "Update llmtunnel on the other machine, or open the page of its version.",
    actions: ["retry", "code"],
  },
  AccessDenied: {
    title: "The signal server is private",
    hint: "Enter the access token that its operator gave you.",
    actions: ["token", "code"],
  },
};
const FAILURE = {
  title: "The tunnel has ended",
  hint: "Try again. If it fails again, start serve once more.",
  actions: /** @type {Action[]} */ (["retry", "code"]),
};

/**
 * Failures, by the name of the error, after which the page keeps trying. Without a hint, the error's own is shown.
 *
 * @type {Record<string, {title: string, hint?: string}>}
 */
const PROBLEMS = {
  ConnectFailed: {
    title: "No network path to the other side yet",
    hint:
      "If one of the two networks blocks UDP, the signal server has to offer a relay or a TURN server." +
      " Try another network, such as a phone's.",
  },
  HandshakeFailed: { title: "The other side cannot be recognised" },
  RoomFull: { title: "Too many sides use this code", hint: "Close the other pages and proxies that use it." },
  SignalRejected: { title: "The signal server refuses this page", hint: "Ask its operator." },
  SignalRestarting: { title: "The signal server restarts", hint: BY_ITSELF },
  SignalUnreachable: {
    title: "The signal server does not answer",
    hint: `Check this device's network, and the signal server. ${BY_ITSELF}`,
  },
  AuthenticationFailed: { title: "The other side did not accept the code", hint: "Compare it with serve's." },
};

/**
 * Return what to say, or null if requests pass.
 *
 * @param {Pick<State, "phase" | "text" | "problem">} state
 * @returns {Notice | null}
 */
export function describe({ phase, text, problem }) {
  switch (phase) {
    case "connected":
    case "closed":
      return null;
    case "failed":
      return failure(problem);
    case "waiting":
      return {
        tone: "warning",
        title: "Waiting for the other side",
        text: problem?.message ?? "Nobody serves this code now.",
        hint: `${START_SERVE} The page connects as soon as serve is there.`,
        actions: ["code"],
      };
    case "suspended":
      return {
        tone: "warning",
        title: "The connection was interrupted",
        text: "Requests wait until it is back. Nothing is lost meanwhile.",
        hint: "",
        actions: ["retry"],
      };
    default:
      return problem === null ? { tone: "busy", title: titleOf(phase), text, hint: "", actions: [] } : trouble(problem);
  }
}

/** @param {string} phase */
function titleOf(phase) {
  return phase === "signal" ? "Connecting" : "Connecting to the other side";
}

/**
 * @param {State["problem"]} problem
 * @returns {Notice}
 */
function failure(problem) {
  const { title, hint, actions } = FAILURES[problem?.name ?? ""] ?? FAILURE;
  return { tone: "error", title, text: problem?.message ?? "", hint: problem?.hint || hint, actions };
}

/**
 * @param {NonNullable<State["problem"]>} problem
 * @returns {Notice}
 */
function trouble(problem) {
  const known = PROBLEMS[problem.name];
  const title = known?.title ?? "Connecting again";
  const hint = known?.hint ?? (problem.hint || BY_ITSELF);
  return { tone: "warning", title, text: problem.message, hint, actions: ["retry", "code"] };
}

const PATHS = { direct: "Direct", turn: "Through a TURN server", relay: "Through the signal server's relay" };
const SHORT_PATHS = { direct: "Direct", turn: "TURN", relay: "Relay" };

/**
 * Return the path in words, long or short.
 *
 * @param {string | null} path
 * @param {{short?: boolean}} [options]
 */
export function pathText(path, { short = false } = {}) {
  const texts = short ? SHORT_PATHS : PATHS;
  return path === null ? "None" : (texts[/** @type {keyof typeof PATHS} */ (path)] ?? path);
}

/** @param {number | null} seconds */
export function rttText(seconds) {
  if (seconds === null) {
    return "–";
  }
  return seconds < 0.001 ? "< 1 ms" : `${Math.round(seconds * 1000)} ms`;
}

/** @param {number} bytes Bytes per second. */
export function rateText(bytes) {
  if (bytes < 1000) {
    return `${Math.round(bytes)} B/s`;
  }
  const [value, unit] = bytes < 1_000_000 ? [bytes / 1000, "kB/s"] : [bytes / 1_000_000, "MB/s"];
  return `${value < 10 ? value.toFixed(1) : Math.round(value)} ${unit}`;
}
