/** What eslint checks in llmtunnel/web and tests/web. It runs in the repository's root: see package.json. */

import js from "@eslint/js";
import globals from "globals";

const CORE = "**/llmtunnel/web/core/**/*.js";

export default [
  { ignores: ["**/llmtunnel/web/vendor/*.js", "**/node_modules/**"] },
  js.configs.recommended,
  {
    languageOptions: { ecmaVersion: 2022, sourceType: "module" },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      curly: "error",
      eqeqeq: "error",
      "no-shadow": "error",
      "no-var": "error",
      "object-shorthand": "error",
      "prefer-const": "error",
      "prefer-template": "error",
    },
  },
  {
    // The core is pure: it names no clock, no timer, no socket and no document.
    files: [CORE],
    languageOptions: {
      globals: { TextDecoder: "readonly", TextEncoder: "readonly", URL: "readonly", crypto: "readonly" },
    },
    rules: {
      "no-restricted-properties": [
        "error",
        { object: "Date", property: "now", message: "Take the time as an argument." },
        { object: "Math", property: "random", message: "Use crypto.getRandomValues." },
      ],
      "no-restricted-globals": ["error", "Date", "globalThis"],
    },
  },
  {
    files: ["peer", "shell", "chat", "app"].map((folder) => `**/llmtunnel/web/${folder}/**/*.js`),
    languageOptions: { globals: globals.browser },
  },
  { files: ["**/llmtunnel/web/app/{shim,socket,eventsource}.js"], languageOptions: { sourceType: "script" } },
  { files: ["tests/web/**/*.js"], languageOptions: { globals: globals.node } },
];
