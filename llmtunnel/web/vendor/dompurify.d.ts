// The types of what this project uses of dompurify.js.

export interface Config {
  ALLOWED_TAGS: readonly string[];
  ALLOWED_ATTR: readonly string[];
  ADD_URI_SAFE_ATTR: readonly string[];
  ALLOWED_URI_REGEXP: RegExp;
  ALLOW_DATA_ATTR: false;
  ALLOW_ARIA_ATTR: false;
  RETURN_DOM_FRAGMENT: true;
}

declare const DOMPurify: {
  readonly isSupported: boolean;
  sanitize(html: string, config: Config): DocumentFragment;
};
export default DOMPurify;
