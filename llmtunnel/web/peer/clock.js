/** The time for everything that takes it as an argument. */

/** Return the seconds since some moment in the past. They never go back. */
export function now() {
  return performance.now() / 1000;
}
