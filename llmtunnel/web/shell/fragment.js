/**
 * The page's first script. It takes the code out of the address bar before any other script runs, and imports nothing:
 * a fragment goes to no server, but people share and photograph address bars.
 */

/** The code that the page was opened with; empty if there was none. */
export const code = takeCode();

/** Return the code in the page's address, and remove it there and in the tab's history. */
export function takeCode() {
  const fragment = location.hash.slice(1);
  if (location.href.includes("#")) {
    history.replaceState(null, "", location.pathname + location.search);
  }
  try {
    return decodeURIComponent(fragment);
  } catch {
    return fragment; // a stray % sign: whoever reads the code tells what is wrong with it
  }
}
