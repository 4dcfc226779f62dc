/**
 * The cookies of one app: what a browser keeps for a host, by RFC 6265bis. Pure.
 *
 * The shell keeps all of them. The keeper has another jar with those that scripts may see, so that `document.cookie`
 * answers at once. Every request goes to the same host, so a cookie's domain only decides whether it is accepted.
 *
 * Cookies are bytes, one character each, as in a field. For scripts they are UTF-8.
 */

const MAX_PAIR = 4096;
const MAX_ATTRIBUTE = 1024;
/** Cookies of one app. The oldest ones go first. */
const MAX_COOKIES = 300;
/** Cookies live for 400 days at most, in milliseconds. */
const MAX_AGE = 400 * 24 * 3600 * 1000;
const MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/**
 * @typedef {object} Cookie
 * @property {string} name
 * @property {string} value
 * @property {string} path
 * @property {number | null} expires Milliseconds since 1970; null until the tunnel is disconnected.
 * @property {boolean} httpOnly
 * @property {boolean} secure
 * @property {number} order Which cookie is older.
 */

/** @typedef {Omit<Cookie, "httpOnly" | "order">} VisibleCookie What scripts may see. */

export class CookieJar {
  /** @type {Map<string, Cookie>} */
  #cookies = new Map();
  #host;
  #secure;
  #order = 0;

  /**
   * @param {string} origin The app's origin.
   */
  constructor(origin) {
    const { hostname, protocol } = new URL(origin);
    this.#host = hostname;
    this.#secure = protocol === "https:" || hostname === "localhost" || hostname.endsWith(".localhost");
  }

  /**
   * Accept the value of one Set-Cookie field, or what a script assigns to `document.cookie`. Return whether the jar
   * changed.
   *
   * @param {string} text
   * @param {{path: string, now: number, script?: boolean}} options `path`: that of the request or of the document.
   */
  set(text, { path, now, script = false }) {
    const parsed = parse(script ? bytesOf(text) : text, now);
    if (parsed === null || (script && parsed.httpOnly) || !this.#permits(parsed)) {
      return false;
    }
    const cookie = { ...parsed.cookie, path: parsed.path ?? defaultPath(path), order: (this.#order += 1) };
    const key = keyOf(cookie);
    this.#forgetExpired(now);
    const earlier = this.#cookies.get(key);
    if (script && earlier?.httpOnly) {
      return false;
    }
    if (cookie.expires !== null && cookie.expires <= now) {
      return this.#cookies.delete(key);
    }
    this.#cookies.set(key, { ...cookie, order: earlier?.order ?? cookie.order });
    this.#bound();
    return true;
  }

  /**
   * Return the value of the Cookie field for a request; empty if there is none.
   *
   * @param {string} path
   * @param {number} now
   */
  header(path, now) {
    return joined(this.#at(path, now));
  }

  /**
   * Return what `document.cookie` is for a document at the path.
   *
   * @param {string} path
   * @param {number} now
   */
  visible(path, now) {
    return textOf(joined(this.#at(path, now).filter(({ httpOnly }) => !httpOnly)));
  }

  /**
   * Return all cookies that scripts may see, for the keeper's jar.
   *
   * @returns {VisibleCookie[]}
   */
  list() {
    return [...this.#cookies.values()]
      .filter(({ httpOnly }) => !httpOnly)
      .sort((one, other) => one.order - other.order)
      .map(({ name, value, path, expires, secure }) => ({ name, value, path, expires, secure }));
  }

  /**
   * Replace everything by what `list` returned for another jar.
   *
   * @param {readonly VisibleCookie[]} cookies
   */
  replace(cookies) {
    this.clear();
    for (const each of cookies) {
      this.#cookies.set(keyOf(each), { ...each, httpOnly: false, order: (this.#order += 1) });
    }
  }

  clear() {
    this.#cookies.clear();
  }

  /**
   * Whether a cookie may be kept: its domain, its prefix, and what it needs of the connection.
   *
   * @param {Parsed} parsed
   */
  #permits({ cookie, domain, path, sameSiteNone }) {
    const { name, value, secure } = cookie;
    if (domain !== "" && domain !== this.#host && !this.#host.endsWith(`.${domain}`)) {
      return false;
    }
    if ((secure && !this.#secure) || (sameSiteNone && !secure)) {
      return false;
    }
    const prefixed = (name === "" ? value : name).toLowerCase();
    if (prefixed.startsWith("__secure-")) {
      return secure && name !== "";
    }
    return !prefixed.startsWith("__host-") || (secure && name !== "" && domain === "" && path === "/");
  }

  /**
   * @param {string} path
   * @param {number} now
   */
  #at(path, now) {
    return [...this.#cookies.values()]
      .filter(({ expires, path: of }) => (expires === null || expires > now) && pathMatches(path, of))
      .sort((one, other) => other.path.length - one.path.length || one.order - other.order);
  }

  /** @param {number} now */
  #forgetExpired(now) {
    for (const [key, { expires }] of this.#cookies) {
      if (expires !== null && expires <= now) {
        this.#cookies.delete(key);
      }
    }
  }

  #bound() {
    const oldest = [...this.#cookies].sort(([, one], [, other]) => one.order - other.order);
    for (const [key] of oldest.slice(0, Math.max(0, this.#cookies.size - MAX_COOKIES))) {
      this.#cookies.delete(key);
    }
  }
}

/** The keeper's jar: what scripts see, with what they have set since the shell last knew of it. */
export class ScriptCookies {
  #jar;
  #send;
  /** Cookies that the shell has not answered yet. */
  #unanswered = 0;

  /**
   * @param {string} origin The app's origin.
   * @param {(text: string, path: string) => void} send Tells the shell what a script has set.
   */
  constructor(origin, send) {
    this.#jar = new CookieJar(origin);
    this.#send = send;
  }

  /**
   * @param {string} path
   * @param {number} now
   */
  visible(path, now) {
    return this.#jar.visible(path, now);
  }

  /**
   * @param {string} text
   * @param {{path: string, now: number}} options
   */
  set(text, { path, now }) {
    this.#unanswered += 1;
    this.#send(text, path);
    this.#jar.set(text, { path, now, script: true });
  }

  /**
   * Take the list of the shell's jar, unless it was made before the shell knew of all that scripts have set.
   *
   * @param {{cookies: readonly VisibleCookie[], answer: boolean}} told `answer`: to what a script has set.
   */
  receive({ cookies, answer }) {
    this.#unanswered -= answer ? 1 : 0;
    if (this.#unanswered === 0) {
      this.#jar.replace(cookies);
    }
  }
}

/**
 * @typedef {object} Parsed
 * @property {Omit<Cookie, "path" | "order">} cookie
 * @property {string} domain Empty if the cookie is for this host only.
 * @property {string | null} path
 * @property {boolean} httpOnly
 * @property {boolean} sameSiteNone
 */

/**
 * Parse one cookie with its attributes; null if it must be ignored.
 *
 * @param {string} text
 * @param {number} now
 * @returns {Parsed | null}
 */
function parse(text, now) {
  if (hasControl(text)) {
    return null;
  }
  const [pair = "", ...attributes] = text.split(";");
  const equals = pair.indexOf("=");
  const name = trimmed(pair.slice(0, Math.max(0, equals)));
  const value = trimmed(pair.slice(equals + 1));
  if ((name === "" && value === "") || name.length + value.length > MAX_PAIR) {
    return null;
  }
  /** @type {Map<string, string>} */
  const given = new Map();
  for (const each of attributes) {
    const at = each.indexOf("=");
    const attribute = trimmed(at < 0 ? each : each.slice(0, at)).toLowerCase();
    const said = at < 0 ? "" : trimmed(each.slice(at + 1));
    if (said.length <= MAX_ATTRIBUTE) {
      given.set(attribute, said);
    }
  }
  const path = given.get("path");
  return {
    cookie: { name, value, expires: expiry(given, now), httpOnly: given.has("httponly"), secure: given.has("secure") },
    domain: (given.get("domain") ?? "").replace(/^\./, "").toLowerCase(),
    path: path?.startsWith("/") ? path : null,
    httpOnly: given.has("httponly"),
    sameSiteNone: given.get("samesite")?.toLowerCase() === "none",
  };
}

/**
 * Return when a cookie expires. Max-Age counts more than Expires.
 *
 * @param {Map<string, string>} attributes
 * @param {number} now
 */
function expiry(attributes, now) {
  const age = attributes.get("max-age");
  if (age !== undefined && /^-?[0-9]+$/.test(age)) {
    return Number(age) <= 0 ? 0 : now + Math.min(Number(age) * 1000, MAX_AGE);
  }
  const date = attributes.get("expires");
  const time = date === undefined ? null : parseDate(date);
  return time === null ? null : Math.min(time, now + MAX_AGE);
}

/**
 * Parse a cookie's date as RFC 6265 section 5.1.1 does; null if it is none.
 *
 * @param {string} text
 */
export function parseDate(text) {
  /** @type {number[] | null} */
  let time = null;
  /** @type {number | null} */
  let day = null;
  let month = -1;
  /** @type {number | null} */
  let year = null;
  for (const token of text.split(/[\t -/;-@[-`{-~]+/)) {
    const clock = /^(\d{1,2}):(\d{1,2}):(\d{1,2})(?:\D|$)/.exec(token);
    if (time === null && clock !== null) {
      time = clock.slice(1, 4).map(Number);
    } else if (day === null && /^\d{1,2}(?:\D|$)/.test(token)) {
      day = Number.parseInt(token, 10);
    } else if (month < 0 && MONTHS.includes(token.slice(0, 3).toLowerCase())) {
      month = MONTHS.indexOf(token.slice(0, 3).toLowerCase());
    } else if (year === null && /^\d{2,4}(?:\D|$)/.test(token)) {
      year = Number.parseInt(token, 10);
    }
  }
  if (time === null || day === null || month < 0 || year === null) {
    return null;
  }
  year += year >= 70 && year <= 99 ? 1900 : year <= 69 ? 2000 : 0;
  const [hours = 0, minutes = 0, seconds = 0] = time;
  if (day < 1 || day > 31 || year < 1601 || hours > 23 || minutes > 59 || seconds > 59) {
    return null;
  }
  return Date.UTC(year, month, day, hours, minutes, seconds);
}

/**
 * Remove spaces and tabs at both ends. `trim` would also remove a byte of 0xa0, as at the end of "à".
 *
 * @param {string} text
 */
function trimmed(text) {
  let end = text.length;
  while (end > 0 && (text[end - 1] === " " || text[end - 1] === "\t")) {
    end -= 1;
  }
  return text.slice(0, end).replace(/^[\t ]+/, "");
}

/** @param {string} text */
function bytesOf(text) {
  return Array.from(new TextEncoder().encode(text), (each) => String.fromCharCode(each)).join("");
}

/** @param {string} bytes */
function textOf(bytes) {
  return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(bytes, (each) => each.charCodeAt(0)));
}

/** @param {string} text */
function hasControl(text) {
  return [...text].some((each) => (each < " " && each !== "\t") || each === "\x7f");
}

/** @param {{name: string, path: string}} cookie */
function keyOf({ name, path }) {
  return `${name};${path}`;
}

/** @param {string} path */
function defaultPath(path) {
  const end = path.lastIndexOf("/");
  return path.startsWith("/") && end > 0 ? path.slice(0, end) : "/";
}

/**
 * @param {string} path
 * @param {string} of A cookie's path.
 */
function pathMatches(path, of) {
  return path === of || (path.startsWith(of) && (of.endsWith("/") || path[of.length] === "/"));
}

/** @param {Cookie[]} cookies */
function joined(cookies) {
  return cookies.map(({ name, value }) => (name === "" ? value : `${name}=${value}`)).join("; ");
}
