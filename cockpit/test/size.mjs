// What the page weighs, compressed, and what it may weigh.
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const dist = join(dirname(fileURLToPath(import.meta.url)), "../dist");
const limits = { "index.js": 40_000, "index.css": 30_000, "po.de.js": 10_000, "po.he.js": 10_000 };
for (const [name, limit] of Object.entries(limits)) {
    const size = gzipSync(readFileSync(join(dist, name)), { level: 9 }).length;
    console.log(`${name}: ${size} bytes compressed, ${limit} allowed`);
    if (size > limit) process.exitCode = 1;
}
