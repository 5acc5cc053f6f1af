// Where the benchmarks write what they have measured.

import { readFileSync, writeFileSync } from "node:fs";

/** Replaces the part of a document that a make target writes, between its two marks. */
export function write(path, target, text) {
    const begin = `<!-- make ${target} writes from here ... -->\n`;
    const end = `<!-- ... to here, make ${target} -->\n`;
    const old = readFileSync(path, "utf8");
    const [from, to] = [old.indexOf(begin), old.indexOf(end)];
    if (from < 0 || to < from) throw new Error(`${path} lacks the marks ${begin}`);
    writeFileSync(path, `${old.slice(0, from + begin.length)}\n${text}\n\n${old.slice(to)}`);
}
