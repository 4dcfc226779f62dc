/** Says so where the page's modules could not be loaded, for example while the network changed: otherwise it is blank. */

const main = document.querySelector('script[src="shell/main.js"]');
main?.addEventListener("error", () => {
  const text = document.createElement("p");
  text.setAttribute("role", "alert");
  text.textContent = "This page did not load completely. Check your connection, and open the link again.";
  document.body.append(text);
});
