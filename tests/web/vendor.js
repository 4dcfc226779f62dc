/**
 * Make the vendored files of llmtunnel/web/vendor from npm packages, as its LIST.json says.
 *
 *     node vendor.js           write them, and their hashes into LIST.json
 *     node vendor.js --check   compare instead: exit status 1 if a file differs from what its package makes
 *
 * package-lock.json fixes the packages' contents.
 */

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { argv, exit, stderr } from "node:process";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const HERE = fileURLToPath(new URL(".", import.meta.url));
const VENDOR = fileURLToPath(new URL("../../llmtunnel/web/vendor/", import.meta.url));
const LOCK = JSON.parse(readFileSync(`${HERE}package-lock.json`, "utf8")).packages;

const PACKAGE = /node_modules\/((?:@[^/]+\/)?[^/]+)\//;

/**
 * Return the text of a bundle, and the names of the packages in it.
 *
 * @param {{package: string, version: string, entry: string}} listed
 * @returns {Promise<[string, string[]]>}
 */
async function bundle({ package: name, version, entry }) {
  const result = await build({
    absWorkingDir: HERE,
    stdin: { contents: entry, resolveDir: HERE },
    banner: { js: `// ${name} ${version}, bundled by tests/web/vendor.js. Its licence is in this folder.` },
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    charset: "utf8",
    legalComments: "inline",
    metafile: true,
    write: false,
  });
  const names = Object.keys(result.metafile.inputs).flatMap((path) => PACKAGE.exec(path)?.[1] ?? []);
  return [/** @type {{text: string}} */ (result.outputFiles[0]).text, [...new Set(names)].sort()];
}

/** @param {string} text */
function sha256(text) {
  return createHash("sha256").update(text).digest("hex");
}

const list = JSON.parse(readFileSync(`${VENDOR}LIST.json`, "utf8"));
/** @type {Map<string, string>} */
const made = new Map();
for (const each of list) {
  const locked = LOCK[`node_modules/${each.package}`];
  Object.assign(each, { version: locked.version, licence: locked.license });
  const [text, names] = await bundle(each);
  const licence = readFileSync(`${HERE}node_modules/${each.package}/LICENSE`, "utf8");
  each.contains = Object.fromEntries(names.map((name) => [name, LOCK[`node_modules/${name}`].integrity]));
  delete each.integrity;
  each.sha256 = sha256(text);
  each.madeBy = `esbuild ${LOCK["node_modules/esbuild"].version}: tests/web/vendor.js`;
  made.set(each.file, text).set(each.licenceFile, licence);
}
made.set("LIST.json", `${JSON.stringify(list, null, 2)}\n`);

let differs = false;
for (const [file, text] of made) {
  if (!argv.includes("--check")) {
    writeFileSync(VENDOR + file, text);
  } else if (readFileSync(VENDOR + file, "utf8") !== text) {
    differs = true;
    stderr.write(`llmtunnel/web/vendor/${file}: not what npm's package makes. Run: make web-vendor\n`);
  }
}
exit(differs ? 1 : 0);
