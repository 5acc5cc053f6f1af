// 10,000 locks and 2,000 signals in a burst. The bounds are wide enough for a machine
// that does other things too; make bench-cockpit measures.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { until } from "./machine.mjs";
import { closeBrowser, onMachine, press } from "./page.mjs";

after(closeBrowser);

const count = page => page.locator(".dl-count").innerText();
const shown = page => page.locator("tbody tr").count();

test(
    "10,000 locks: one page of rows, sorted and filtered at once; a burst does not stop the page",
    onMachine({}, async (machine, open) => {
        await machine.ctl("join", "vms");
        await machine.takeMany("vms", "farm", 10_000);
        const page = await open();
        await until("all are loaded", async () => (await count(page)) === "10,000 locks");
        assert.equal(await shown(page), 50);
        assert.ok((await page.evaluate(() => document.querySelectorAll("*").length)) < 2500);
        await press(page, "Resource");
        await until("sorted", async () => (await page.locator("tbody tr").first().innerText()).startsWith("farm-0"));
        await press(page, "Next page");
        await until("the second page", async () =>
            (await page.locator("tbody tr").first().innerText()).startsWith("farm-50"),
        );
        await page.getByRole("searchbox").fill("farm-999");
        await until("filtered", async () => (await count(page)) === "11 of 10,000 locks");
        await page.getByRole("searchbox").fill("");
        await page.evaluate(() => {
            window.longest = 0;
            new PerformanceObserver(list => {
                for (const entry of list.getEntries()) window.longest = Math.max(window.longest, entry.duration);
            }).observe({ entryTypes: ["longtask"] });
        });
        await machine.takeMany("vms", "burst", 1000);
        await machine.call("ReleaseOwner", "ss", "vms", "burst");
        await until("all 2,000 signals", async () => (await count(page)) === "10,000 locks");
        const longest = await page.evaluate(() => window.longest);
        assert.ok(longest < 1000, `blocked for ${longest} ms`);
        await machine.call("ReleaseOwner", "ss", "vms", "farm");
        await page.getByText("Nothing is locked").waitFor();
    }),
);

test(
    "50,000 locks: all are loaded, and the page goes on answering",
    onMachine({}, async (machine, open) => {
        await machine.ctl("join", "vms");
        await machine.takeMany("vms", "farm", 50_000);
        const page = await open();
        await until("the first rows", async () => (await shown(page)) === 50);
        await page.getByRole("searchbox").fill("farm-49999");
        await until("all are loaded", async () => (await count(page)) === "1 of 50,000 locks", 60_000);
        await page.getByRole("searchbox").fill("");
        await press(page, "Resource");
        await until("sorted", async () => (await page.locator("tbody tr").first().innerText()).startsWith("farm-0"));
        await press(page, "Resource");
        await until("the other way round", async () =>
            (await page.locator("tbody tr").first().innerText()).startsWith("farm-49999"),
        );
    }),
);
