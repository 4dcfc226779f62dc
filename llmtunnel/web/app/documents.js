/**
 * Where a script of ours goes into an app's document, so that it runs before all of the app's own. Pure.
 *
 * A document's text is handled as bytes, one character each: markup is ASCII in every encoding that is treated here.
 */

const SPACE_OR_COMMENT = String.raw`(?:[\t\n\f\r ]|<!--[\s\S]*?-->|<[!?][^>]*>)*`;
const ATTRIBUTES = String.raw`(?:[\t\n\f\r /](?:"[^"]*"|'[^']*'|[^>"'])*)?`;
/** Everything before the first element of the head. */
const BEFORE_HEAD = new RegExp(
  String.raw`^(?:\xef\xbb\xbf)?${SPACE_OR_COMMENT}(?:<html${ATTRIBUTES}>${SPACE_OR_COMMENT})?(?:<head${ATTRIBUTES}>)?`,
  "i",
);
/** The beginning of a tag or comment that may still have to be passed over. */
const UNFINISHED = /^(?:$|<$|<!--(?![\s\S]*-->)|<[!?][^>]*$|<h(?:[te][^>]*)?$|\xef\xbb?$)/i;
/** The bytes of a document that are looked at before it is passed on. */
export const LOOKED_AT = 16 * 1024;
const META_CHARSET = /<meta[\t\n\f\r /][^>]*?charset[\t\n\f\r ]*=[\t\n\f\r ]*["']?[\t\n\f\r ]*([a-z0-9_:.-]+)/i;
const STRICT = /^(?:[\t\n\v\f\r ]|\/\/[^\n]*\n|\/\*[\s\S]*?\*\/)*(?:"use strict"|'use strict')/;

/**
 * Return the position in a document's beginning where a script runs first.
 *
 * @param {string} start Bytes as characters.
 */
export function insertionPoint(start) {
  return BEFORE_HEAD.exec(start)?.[0].length ?? 0;
}

/**
 * Whether more of the document is needed to tell the position, or its encoding if that is asked for.
 *
 * @param {string} start
 * @param {{encoding: boolean}} wanted
 */
export function needsMore(start, { encoding }) {
  if (start.length >= LOOKED_AT) {
    return false;
  }
  return UNFINISHED.test(start.slice(insertionPoint(start))) || (encoding && start.length < 1024 && !charsetOf(start));
}

/**
 * Return the encoding that a document names in its first bytes; null if it names none.
 *
 * Browsers look for it in the first kilobyte only, and what is inserted moves it behind that.
 *
 * @param {string} start
 */
export function charsetOf(start) {
  return META_CHARSET.exec(start.slice(0, 4096))?.[1] ?? null;
}

/**
 * Whether a document is in an encoding whose markup is not ASCII.
 *
 * @param {string} contentType
 * @param {string} start
 */
export function isWide(contentType, start) {
  return /utf-?(?:16|32)/i.test(contentType) || start.startsWith("\xff\xfe") || start.startsWith("\xfe\xff");
}

/**
 * Return what goes before a worker's script: `code`, in the mode that the script itself is in.
 *
 * @param {string} code
 * @param {string} start The script's beginning.
 */
export function beforeScript(code, start) {
  return `${STRICT.test(start) ? '"use strict";' : ""}${code}\n`;
}
