/**
 * Markdown of a model as HTML. A model's text is untrusted, as is what it repeats from elsewhere:
 *
 * - Raw HTML is shown as text, except a few tags without attributes (`<br>`, `<sub>`, …).
 * - An image becomes a link: loading it would tell its server that somebody reads the answer.
 * - DOMPurify then drops whatever is not in the lists below. It makes no element that loads, runs or submits anything.
 */

import DOMPurify from "../vendor/dompurify.js";
import { Marked } from "../vendor/marked.js";

/** Tags that may be written as HTML. */
const PLAIN = ["b", "br", "del", "em", "hr", "i", "kbd", "p", "s", "small", "strong", "sub", "sup", "u"];
const TAGS = [
  ...PLAIN,
  ...["a", "blockquote", "code", "h1", "h2", "h3", "h4", "h5", "h6", "li", "ol", "pre", "ul"],
  ...["table", "tbody", "td", "th", "thead", "tr"],
];
/** The beginning of any other tag, or of one of these with attributes. */
const OTHER_TAG = new RegExp(`<(?!/?(?:${PLAIN.join("|")})\\s*/?>)`, "i");

const marked = new Marked({
  async: false,
  gfm: true,
  breaks: true,
  renderer: {
    html: ({ text, block }) => (OTHER_TAG.test(text) ? shown(text, block) : text),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    image: ({ href, text }) => `<a href="${escape(href)}">${escape(text.trim() || href)}</a>`,
  },
});

/**
 * Return HTML that has not been sanitized yet.
 *
 * @param {string} markdown
 */
export function toHtml(markdown) {
  return marked.parse(markdown);
}

/**
 * Return the text as elements, which are safe to show. What is nested too deeply for the parser is shown as it is.
 *
 * @param {string} markdown
 */
export function render(markdown) {
  let html;
  try {
    html = toHtml(markdown);
  } catch {
    const fragment = document.createDocumentFragment();
    fragment.append(markdown);
    return fragment;
  }
  const fragment = DOMPurify.sanitize(html, {
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ["href", "class", "start", "align"],
    ADD_URI_SAFE_ATTR: ["start", "align"], // otherwise DOMPurify takes their values for addresses, and drops them
    ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
  for (const link of fragment.querySelectorAll("a")) {
    link.setAttribute("target", "_blank");
    link.setAttribute("rel", "noopener noreferrer");
  }
  for (const element of fragment.querySelectorAll("[class]")) {
    if (element.localName !== "code" || !/^language-[\w+#.-]{1,30}$/.test(element.className)) {
      element.removeAttribute("class");
    }
  }
  return fragment;
}

/** A line that opens or closes a block of code, and one that begins a block which nothing before it continues in. */
const FENCE = /^ {0,3}(`{3,}|~{3,})/;
const FRESH = /^[^\s>|*+\-\d<[]/;

/**
 * Return how much of a growing text will look the same whatever follows, from a place where that was so. What lies
 * before need not be parsed again. Lists, quotes and tables are never split.
 *
 * @param {string} text
 * @param {number} [from]
 */
export function stableEnd(text, from = 0) {
  let stable = from;
  let fence = "";
  let empty = false;
  let at = from;
  for (let end = text.indexOf("\n", at); end >= 0; end = text.indexOf("\n", at)) {
    const line = text.slice(at, end);
    if (empty && fence === "" && FRESH.test(line)) {
      stable = at;
    }
    const mark = FENCE.exec(line)?.[1] ?? "";
    if (fence === "") {
      fence = mark;
    } else if (mark.startsWith(fence) && line.trim() === mark) {
      fence = "";
    }
    empty = line.trim() === "";
    at = end + 1;
  }
  return stable;
}

/**
 * Return raw HTML as text. A block of it keeps its lines.
 *
 * @param {string} text
 * @param {boolean} block
 */
function shown(text, block) {
  return block ? `<p>${escape(text.trim()).replaceAll("\n", "<br>")}</p>` : escape(text);
}

/** @param {string} text */
function escape(text) {
  return text.replace(/[&<>"']/g, (each) => `&#${each.charCodeAt(0)};`);
}
