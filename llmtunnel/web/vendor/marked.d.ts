// The types of what this project uses of marked.js.

export interface HtmlToken {
  type: "html";
  raw: string;
  text: string;
  block: boolean;
}

export interface ImageToken {
  href: string;
  title: string | null;
  text: string;
}

export interface CheckboxToken {
  checked: boolean;
}

export interface Renderer {
  checkbox?: (token: CheckboxToken) => string;
  html?: (token: HtmlToken) => string;
  image?: (token: ImageToken) => string;
}

export class Marked {
  constructor(options: { async?: false; gfm?: boolean; breaks?: boolean; renderer?: Renderer });
  /** Return HTML that is not safe: sanitize it. */
  parse(markdown: string): string;
}
