// Builds the page from src/ and po/ into dist/, the same bytes each time:
//
//   node build.mjs            into dist/
//   node build.mjs --out DIR  into DIR; --check compares it with dist/
//
// It needs node_modules (npm ci) and no network.

import { build } from "esbuild";
import { cp, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { PurgeCSS } from "purgecss";

import { compileCatalogues } from "./po.mjs";

const here = dirname(fileURLToPath(import.meta.url));

async function bundle(out) {
    await build({
        absWorkingDir: here,
        entryPoints: ["src/index.tsx"],
        bundle: true,
        outdir: out,
        minify: true,
        format: "iife",
        target: ["es2022", "firefox102", "chrome104", "safari16"],
        jsx: "automatic",
        jsxImportSource: "preact",
        legalComments: "none",
        external: ["../../static/*", "*.svg"],
        logLevel: "warning",
        alias: { "preact/jsx-dev-runtime": "preact/jsx-runtime" },
    });
}

// Names that the page puts together from a part and a value.
const composed = [
    "danger",
    "warning",
    "info",
    "success",
    "red",
    "orange",
    "green",
    "blue",
    "purple",
    "primary",
    "secondary",
    "link",
    "plain",
    "md",
    "xl",
].map(name => "pf-m-" + name);

/**
 * Of PatternFly's stylesheets only what the page names: rules by class, then variables until none is idle.
 * The page's own rules (dl-) all stay: some of their names are put together at run time.
 */
async function pruneStyle(file, script) {
    const [{ css }] = await new PurgeCSS().purge({
        content: [{ raw: script, extension: "js" }],
        css: [{ raw: await readFile(file, "utf8") }],
        safelist: { standard: ["html", "body", ":root", "pf-v6-theme-dark", ...composed, "open", "rtl", /^dl-/] },
        defaultExtractor: text => text.match(/[\w-]+/g) ?? [],
        keyframes: true,
        fontFace: false,
    });
    await writeFile(file, dropIdleVariables(css));
}

function dropIdleVariables(css) {
    for (let before = ""; before !== css;) {
        before = css;
        const used = new Set([...css.matchAll(/var\(\s*(--[\w-]+)/g)].map(match => match[1]));
        css = css.replace(/(--[\w-]+):([^;{}]*)(;|(?=\}))/g, (all, name) => (used.has(name) ? all : ""));
        css = css.replace(/[^{}]+\{\}/g, "");
    }
    return css;
}

const shipped = ["preact", "@patternfly/patternfly"];

async function licences(out) {
    const texts = await Promise.all(
        shipped.map(async name => {
            const dir = join(here, "node_modules", name);
            const { version, license } = JSON.parse(await readFile(join(dir, "package.json"), "utf8"));
            const file = (await readdir(dir)).find(entry => /^licen[sc]e/i.test(entry));
            const text = file
                ? await readFile(join(dir, file), "utf8")
                : await readFile(join(here, "licences", "patternfly.txt"), "utf8");
            return `${name} ${version} (${license})\n\n${text.trim()}\n`;
        }),
    );
    const head = "This page is part of dlmlockd, LGPL-2.1-or-later. It has in it:\n\n";
    await writeFile(join(out, "index.js.LEGAL.txt"), head + texts.join("\n----\n\n"));
}

async function buildInto(out) {
    await rm(out, { recursive: true, force: true });
    await mkdir(out, { recursive: true });
    await bundle(out);
    await pruneStyle(join(out, "index.css"), await readFile(join(out, "index.js"), "utf8"));
    await licences(out);
    for (const file of ["index.html", "manifest.json"]) await cp(join(here, file), join(out, file));
    for (const { language, script } of await compileCatalogues())
        await writeFile(join(out, `po.${language}.js`), script);
}

/** Names of files that differ between two directories. */
async function differences(one, other) {
    const names = new Set([...(await readdir(one)), ...(await readdir(other))]);
    const read = (dir, name) => readFile(join(dir, name)).catch(() => Buffer.alloc(0));
    const out = [];
    for (const name of names) if (!(await read(one, name)).equals(await read(other, name))) out.push(name);
    return out.sort();
}

async function main(args) {
    if (args.includes("--check")) {
        const dir = await mkdtemp(join(tmpdir(), "cockpit-dlmlock-"));
        await buildInto(join(dir, "dist"));
        const changed = await differences(join(dir, "dist"), join(here, "dist"));
        await rm(dir, { recursive: true });
        if (changed.length > 0)
            throw new Error(`cockpit/dist is not what cockpit/src builds to (${changed.join(", ")}): make cockpit`);
        return;
    }
    const at = args.indexOf("--out");
    await buildInto(at >= 0 ? args[at + 1] : join(here, "dist"));
}

await main(process.argv.slice(2));
