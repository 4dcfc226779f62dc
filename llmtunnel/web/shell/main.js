/** The page after its first script: makes the shell. */

import { code, takeCode } from "./fragment.js";
import { Shell } from "./shell.js";
import { loadSite } from "./site.js";

const shell = new Shell(document.body, await loadSite(document.baseURI));
window.addEventListener("hashchange", () => {
  const other = takeCode();
  if (other !== "") {
    shell.opened(other);
  }
});
shell.opened(code);
