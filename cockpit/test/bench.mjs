// Measures the page and writes the table into a document, between the marks of make
// bench-cockpit: node bench.mjs docs/benchmarks.md [COCKPIT_ROOT of another version].
// Medians of three runs with a browser of its own each.

import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import { Machine, cockpitDir, until } from "./browser/machine.mjs";
import { closeBrowser, open } from "./browser/page.mjs";
import { write } from "./report.mjs";

const RUNS = Number(process.env.RUNS ?? 3);
const median = values => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** Marks when the first rows and the whole list were painted; runs before the page. */
function watch(total) {
    window.seen = {};
    new MutationObserver(() => {
        const mark = name =>
            requestAnimationFrame(() =>
                setTimeout(() => {
                    window.seen[name] ??= performance.now();
                }),
            );
        if (!window.seen.first && document.querySelector("tbody tr")) mark("first");
        const count = document.querySelector(".dl-count")?.textContent ?? "";
        if (!window.seen.all && count.startsWith(total) && !count.includes("loading")) mark("all");
    }).observe(document, { childList: true, subtree: true, characterData: true });
}

async function openWatched(machine, total) {
    const blank = await open(machine);
    const context = blank.context();
    await blank.close();
    await context.addInitScript(watch, total);
    const page = await open(machine, { context });
    await until("all loaded", () => page.evaluate(() => window.seen.all > 0), 60_000);
    return page;
}

const tick = page => page.evaluate(() => new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve))));

/** How long it takes until what was asked for in the page is painted. */
async function painted(page, act) {
    return page.evaluate(async source => {
        const began = performance.now();
        (0, eval)(`(${source})`)();
        await new Promise(resolve =>
            new MutationObserver((_list, observer) => {
                observer.disconnect();
                resolve();
            }).observe(document.querySelector("tbody"), { childList: true, subtree: true, characterData: true }),
        );
        await new Promise(resolve => requestAnimationFrame(() => setTimeout(resolve)));
        return performance.now() - began;
    }, String(act));
}

const sortByResource = () => document.querySelectorAll("th button")[0].click();
const filterByText = () => {
    const box = document.querySelector("input[type=search]");
    box.value = "farm-99";
    box.dispatchEvent(new Event("input", { bubbles: true }));
};

async function heap(page) {
    const session = await page.context().newCDPSession(page);
    await session.send("HeapProfiler.collectGarbage");
    const { usedSize } = await session.send("Runtime.getHeapUsage");
    return usedSize / 1e6;
}

async function burst(machine, page) {
    await page.evaluate(() => {
        window.longest = 0;
        new PerformanceObserver(list => {
            for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration);
        }).observe({ entryTypes: ["longtask"] });
    });
    const before = await page.locator(".dl-count").innerText();
    const began = Date.now();
    await machine.takeMany("vms", "burst", 1000);
    await machine.call("ReleaseOwner", "ss", "vms", "burst");
    const asked = Date.now() - began;
    await until("the burst is over", async () => (await page.locator(".dl-count").innerText()) === before);
    return { longest: await page.evaluate(() => window.longest), asked, after: Date.now() - began - asked };
}

/** From the call of another client until the row has gone. */
async function releaseElsewhere(machine, page, n) {
    await machine.ctl("acquire", "vms", `single${n}`, "EX", "--owner=single");
    await page.getByText(`single${n}`).waitFor();
    const gone = page.evaluate(
        name =>
            new Promise(resolve =>
                new MutationObserver((_list, observer) => {
                    if (!document.querySelector("tbody").textContent.includes(name)) {
                        observer.disconnect();
                        resolve(Date.now());
                    }
                }).observe(document.querySelector("tbody"), { childList: true, subtree: true, characterData: true }),
            ),
        `single${n}`,
    );
    await tick(page);
    const began = Date.now();
    const call = machine.ctl("release", "vms", `single${n}`, "--owner=single");
    const end = await gone;
    await call;
    return end - began;
}

async function measure(locks) {
    const machine = await Machine.start({ config: "" });
    const total = locks.toLocaleString("en-US");
    const runs = [];
    try {
        await machine.ctl("join", "vms");
        await machine.takeMany("vms", "farm", locks);
        for (let n = 0; n < RUNS; n++) {
            await closeBrowser();
            const page = await openWatched(machine, total);
            const { first, all } = await page.evaluate(() => window.seen);
            const paint = await page.evaluate(
                () => performance.getEntriesByName("first-contentful-paint")[0]?.startTime ?? NaN,
            );
            const elsewhere = await releaseElsewhere(machine, page, n);
            const heapMB = await heap(page);
            const flood = await burst(machine, page);
            const sort = await painted(page, sortByResource);
            const filter = await painted(page, filterByText);
            runs.push({ paint, first, all, sort, filter, elsewhere, longest: flood.longest, heap: heapMB });
        }
        return Object.fromEntries(Object.keys(runs[0]).map(key => [key, median(runs.map(run => run[key]))]));
    } catch (error) {
        console.error(machine.log().slice(-3000));
        throw error;
    } finally {
        await closeBrowser();
        await machine.stop();
    }
}

/** First contentful paint and compressed JavaScript of one of Cockpit's own pages, which finds nothing to show here. */
async function other(name) {
    const machine = await Machine.start({ pages: [name] });
    const address = machine.address.replace("/dlmlock/", `/${name}/`);
    const paints = [];
    let script = 0;
    try {
        for (let n = 0; n < RUNS; n++) {
            await closeBrowser();
            const blank = await open(machine);
            const page = await blank.context().newPage();
            await blank.close();
            await page.goto(address);
            await until("painted", () =>
                page.evaluate(() => performance.getEntriesByName("first-contentful-paint").length > 0),
            );
            paints.push(
                await page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0].startTime),
            );
            script = await page.evaluate(() =>
                performance
                    .getEntriesByType("resource")
                    .filter(({ name }) => name.endsWith(".js") && !name.includes("/base1/"))
                    .reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0),
            );
        }
    } finally {
        await closeBrowser();
        await machine.stop();
    }
    if (script === 0) throw new Error(`the page of cockpit-${name} is not served`);
    return { name, paint: median(paints), script };
}

/** An hour's worth of changes in some minutes: what the heap is at the end. */
async function churn(changes) {
    const machine = await Machine.start();
    try {
        await machine.ctl("join", "vms");
        await machine.takeMany("vms", "farm", 10_000);
        const page = await openWatched(machine, "10,000");
        for (let n = 0; n < changes; n += 2000) {
            await machine.takeMany("vms", "churn", 1000);
            await machine.call("ReleaseOwner", "ss", "vms", "churn");
        }
        await until("quiet", async () => (await page.locator(".dl-count").innerText()) === "10,000 locks");
        return await heap(page);
    } finally {
        await closeBrowser();
        await machine.stop();
    }
}

const size = name => gzipSync(readFileSync(join(cockpitDir, "dist", name)), { level: 9 }).length;
const ms = value => `${Math.round(value)} ms`;

/** Breaks the lines of a paragraph where a document's lines end. */
function wrap(text) {
    const lines = [""];
    for (const word of text.split(" ")) {
        const line = lines.at(-1);
        if (line === "") lines[lines.length - 1] = word;
        else if (line.length + 1 + word.length <= 100) lines[lines.length - 1] = `${line} ${word}`;
        else lines.push(word);
    }
    return lines.join("\n");
}

function table(columns, churned, others) {
    const row = (name, key, goal, show = ms) =>
        `| ${name} | ${goal} | ${columns.map(({ figures }) => show(figures[key])).join(" | ")} |`;
    const mb = value => `${value.toFixed(1)} MB`;
    return [
        `| the page in Chromium | goal | ${columns.map(({ title }) => title).join(" | ")} |`,
        `| --- | --- | ${columns.map(() => "---").join(" | ")} |`,
        row("first contentful paint", "paint", ""),
        row("first rows", "first", "700 ms"),
        row("everything loaded and painted", "all", "1,200 ms"),
        row("sort by resource", "sort", "100 ms"),
        row("filter by text", "filter", "100 ms"),
        row("a release by another client has left the table", "elsewhere", "500 ms"),
        row("longest block in a burst of 2,000 signals", "longest", "100 ms"),
        row("JavaScript heap", "heap", "40 MB", mb),
        "",
        wrap(
            `JavaScript ${size("index.js").toLocaleString("en-US")} bytes compressed (goal: 200,000), style sheet ` +
                `${size("index.css").toLocaleString("en-US")}. ` +
                `Heap after ${churned.changes.toLocaleString("en-US")} more changes with 10,000 locks: ` +
                `${mb(churned.heap)} (goal: 40 MB after an hour). A block under 50 ms counts as 0.`,
        ),
        "",
        wrap(
            "Cockpit's own pages on the newer bridge, with nothing to show (no libvirt, no podman): " +
                others
                    .map(
                        ({ name, paint, script }) =>
                            `cockpit-${name} first contentful paint ${ms(paint)}, ` +
                            `${script.toLocaleString("en-US")} bytes of JavaScript`,
                    )
                    .join("; ") +
                ".",
        ),
    ].join("\n");
}

const version = root =>
    execFileSync(
        "sh",
        [
            "-c",
            root
                ? `sed -n "s/__version__ = '\\(.*\\)'/\\1/p" ${root}/usr/lib/python3/dist-packages/cockpit/_version.py`
                : "cockpit-bridge --version | sed -n 's/^Version: //p'",
        ],
        { encoding: "utf8" },
    ).trim() || "?";

async function main([path, newer]) {
    const columns = [];
    const others = [];
    for (const root of ["", newer].filter(root => root !== undefined)) {
        if (root) process.env.COCKPIT_ROOT = root;
        for (const locks of root ? [10_000] : [10_000, 50_000])
            columns.push({
                title: `Cockpit ${version(root)}, ${locks.toLocaleString("en-US")} locks`,
                figures: await measure(locks),
            });
        if (root) for (const name of ["machines", "podman"]) others.push(await other(name));
    }
    delete process.env.COCKPIT_ROOT;
    const changes = Number(process.env.CHURN ?? 40_000);
    const text = table(columns, { changes, heap: await churn(changes) }, others);
    const machine =
        `${cpus()[0].model}, ${cpus().length} cores, node ${process.version}, ` +
        `${new Date().toISOString().slice(0, 10)}, load ${loadavg()[0].toFixed(2)}. Medians of ${RUNS} runs.`;
    write(path, "bench-cockpit", `${machine}\n\n${text}`);
    console.log(text);
}

await main(process.argv.slice(2));
