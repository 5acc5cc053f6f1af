// Translations: po/LANGUAGE.po to po.LANGUAGE.js, as Cockpit loads them.
//
//   node po.mjs --update   takes the texts of src/ into po/*.po and po/dlmlock.pot
//   node po.mjs --check    fails where one is missing, too much, or lacks a placeholder

import gettext from "gettext-parser";
import { readFile, readdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const here = dirname(fileURLToPath(import.meta.url));
const po = join(here, "po");
const single = new Set(["_"]);
const plural = new Set(["ngettext", "counted"]);
const rightToLeft = new Set(["ar", "fa", "he", "ur"]);

async function sources(dir) {
    const entries = await readdir(dir, { withFileTypes: true });
    const lists = await Promise.all(
        entries.map(entry =>
            entry.isDirectory()
                ? sources(join(dir, entry.name))
                : /\.tsx?$/.test(entry.name) && !entry.name.endsWith(".d.ts")
                  ? [join(dir, entry.name)]
                  : [],
        ),
    );
    return lists.flat().sort();
}

/** The texts of src/ that are translated: msgid to msgid_plural or "". */
async function texts() {
    const found = new Map();
    for (const file of await sources(join(here, "src"))) {
        const source = ts.createSourceFile(
            file,
            await readFile(file, "utf8"),
            ts.ScriptTarget.Latest,
            true,
            file.endsWith("x") ? ts.ScriptKind.TSX : ts.ScriptKind.TS,
        );
        const visit = node => {
            if (ts.isCallExpression(node) && ts.isIdentifier(node.expression)) {
                const [one, many] = node.arguments;
                if (single.has(node.expression.text) && one && ts.isStringLiteral(one))
                    found.set(one.text, found.get(one.text) ?? "");
                if (
                    plural.has(node.expression.text) &&
                    one &&
                    many &&
                    ts.isStringLiteral(one) &&
                    ts.isStringLiteral(many)
                )
                    found.set(one.text, many.text);
            }
            ts.forEachChild(node, visit);
        };
        visit(source);
    }
    const { menu } = JSON.parse(await readFile(join(here, "manifest.json"), "utf8"));
    found.set(menu.index.label, "");
    return found;
}

const languages = async () =>
    (await readdir(po))
        .filter(name => name.endsWith(".po"))
        .map(name => name.slice(0, -3))
        .sort();

async function read(language) {
    return gettext.po.parse(await readFile(join(po, language + ".po")));
}

/** The catalogues as scripts: cockpit.locale({...}). */
export async function compileCatalogues() {
    return Promise.all(
        (await languages()).map(async language => {
            const catalogue = await read(language);
            const rule = /plural=([^;]+);?/.exec(catalogue.headers["Plural-Forms"])?.[1] ?? "n!=1";
            const entries = Object.values(catalogue.translations[""] ?? {})
                .filter(entry => entry.msgid !== "" && entry.msgstr.every(text => text !== ""))
                .sort((a, b) => (a.msgid < b.msgid ? -1 : 1))
                .map(entry => `${JSON.stringify(entry.msgid)}:${JSON.stringify([null, ...entry.msgstr])}`);
            const head =
                `"":{"plural-forms":n=>${rule},"language":${JSON.stringify(language)},` +
                `"language-direction":"${rightToLeft.has(language) ? "rtl" : "ltr"}"}`;
            return { language, script: `cockpit.locale({${[head, ...entries].join(",\n")}});\n` };
        }),
    );
}

const placeholders = text =>
    [...text.matchAll(/\$\d/g)]
        .map(match => match[0])
        .sort()
        .join(" ");

/** What is wrong with a catalogue, in lines. */
function faults(language, catalogue, wanted) {
    const have = catalogue.translations[""] ?? {};
    const forms = Number(/nplurals=(\d)/.exec(catalogue.headers["Plural-Forms"])?.[1] ?? 2);
    const out = [];
    for (const [one, many] of wanted) {
        const entry = have[one];
        if (!entry || entry.msgstr.some(text => text === "") || entry.msgstr.length !== (many ? forms : 1))
            out.push(`${language}: not translated: ${one}`);
        // One, two, none may be said without the digit.
        else if (
            entry.msgstr.some(text => !many && placeholders(text) !== placeholders(one)) ||
            (many && placeholders(entry.msgstr.at(-1)) !== placeholders(many))
        )
            out.push(`${language}: other placeholders: ${one}`);
    }
    for (const one of Object.keys(have))
        if (one !== "" && !wanted.has(one)) out.push(`${language}: nobody says that any more: ${one}`);
    return out;
}

async function update(wanted) {
    for (const language of await languages()) {
        const catalogue = await read(language);
        const before = catalogue.translations[""];
        const entries = { "": before[""] };
        for (const [one, many] of [...wanted].sort())
            entries[one] = {
                msgid: one,
                ...(many ? { msgid_plural: many } : {}),
                msgstr: before[one]?.msgstr ?? [""],
            };
        catalogue.translations = { "": entries };
        await writeFile(
            join(po, language + ".po"),
            Buffer.concat([gettext.po.compile(catalogue), Buffer.from("\n")]),
        );
    }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
    const wanted = await texts();
    if (process.argv.includes("--update")) await update(wanted);
    const out = [];
    for (const language of await languages()) out.push(...faults(language, await read(language), wanted));
    if (out.length > 0) {
        console.error(out.join("\n"));
        process.exitCode = process.argv.includes("--update") ? 0 : 1;
    }
    if (process.argv.includes("--list")) console.log(JSON.stringify([...wanted], null, 1));
}
