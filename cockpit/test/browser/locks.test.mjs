// The table of locks, the resource, the waiters, and the dialogs.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { until } from "./machine.mjs";
import { closeBrowser, dialogText, onMachine, press, rows, sees } from "./page.mjs";

after(closeBrowser);

const LABEL = 1024; // bytes, the most that the service takes

async function some(machine) {
    await machine.ctl("join", "vms");
    await machine.ctl("join", "backup");
    await machine.ctl("acquire", "vms", "disk10", "EX", "--owner=web", "--label=/images/web.qcow2");
    await machine.ctl("acquire", "vms", "disk2", "PR", "--owner=db");
    await machine.ctl("acquire", "backup", "nightly", "PW", "--owner=backup");
}

test(
    "locks: filter, sort, address, and what another client does",
    onMachine({}, async (machine, open) => {
        await some(machine);
        const page = await open();
        await rows(page, ["nightly", "disk2", "disk10"], "newest first");
        await press(page, "Resource");
        await rows(page, ["disk2", "disk10", "nightly"]);
        await press(page, "Resource");
        await rows(page, ["nightly", "disk10", "disk2"]);
        assert.match(page.url(), /sort=-resource/);
        for (const [column, order] of [
            ["Lockspace", ["nightly", "disk10", "disk2"]],
            ["Mode", ["disk2", "nightly", "disk10"]],
            ["Owner", ["nightly", "disk2", "disk10"]],
        ]) {
            await press(page, column);
            await rows(page, order, column);
            assert.equal(await page.locator("th[aria-sort=ascending]").innerText(), column);
        }
        await page.getByLabel("Filter by resource, owner or label").fill("IMAGES");
        await rows(page, ["disk10"]);
        await sees(page, "1 of 3 locks");
        await page.getByLabel("Filter by resource, owner or label").fill("no such thing");
        await sees(page, "No lock matches");
        await press(page, "Clear all filters");
        await page.getByLabel("Lockspace", { exact: true }).selectOption("vms");
        await page.getByLabel("Mode", { exact: true }).selectOption("PR");
        await rows(page, ["disk2"]);

        const again = await open({ hash: new URL(page.url()).hash.slice(2) });
        await rows(again, ["disk2"], "the address brings all of it back");
        await page.goBack();
        await rows(page, ["disk2", "disk10"], "a step back takes the last filter away");

        // The list is read once: without the service's signals these would never be seen.
        await machine.ctl("release", "vms", "disk10", "--owner=web");
        await rows(page, ["disk2"], "released by another client");
        await machine.ctl("acquire", "vms", "disk3", "EX", "--owner=web");
        await rows(page, ["disk2", "disk3"], "taken by another client");
        await machine.ctl("convert", "vms", "disk3", "PR", "--owner=web");
        await until(
            "converted by another client",
            async () => (await page.locator("tbody tr").nth(1).locator("td").nth(2).innerText()) === "PR",
        );
        for (const owner of ["web", "db", "backup"]) await machine.ctl("release-owner", owner);
        await sees(page, "Nothing is locked");
    }),
);

test(
    "a lock is released, with what is at stake in the dialog; a refusal stays in it",
    onMachine({}, async (machine, open) => {
        await some(machine);
        await machine.ctl("acquire", "vms", "disk11", "EX", "--owner=web");
        const page = await open();
        await press(page, "Release disk10");
        const text = await dialogText(page);
        for (const part of ["disk10", "vms", "EX", "web", "/images/web.qcow2", "ago"])
            assert.ok(text.includes(part), `${part} in ${text}`);
        await page.keyboard.press("Escape");
        await page.locator("dialog[open]").waitFor({ state: "detached" });
        await until("the focus is back", async () =>
            (await page.evaluate(() => document.activeElement?.getAttribute("aria-label"))) === "Release disk10");

        await press(page, "Release disk2");
        await machine.ctl("release", "vms", "disk2", "--owner=db");
        await machine.ctl("acquire", "vms", "disk2", "PR", "--owner=other");
        await page.locator("dialog[open]").getByRole("button", { name: "Release", exact: true }).click();
        await sees(page, "That did not work");
        assert.match(await dialogText(page), /no lock here matches/i);
        await press(page, "Cancel");
        assert.match((await machine.ctl("list")).stdout, /other/, "another lock of that name is never hit");

        machine.waiter("vms", "disk2", "EX", "--owner=web");
        await until("it waits", async () => (await page.locator("tbody tr").count()) === 5);
        await press(page, "Release disk10");
        await page.getByLabel(/other lock of this owner/).check();
        await press(page, "Release 2 locks"); // the one that waits is not held
        await rows(page, ["disk2", "disk2", "nightly"]);
    }),
);

test(
    "an address that can't be decoded shows the list",
    onMachine({}, async (machine, open) => {
        await some(machine);
        const page = await open({ hash: "waiting?resource=%" });
        await rows(page, ["nightly", "disk2", "disk10"]);
        await press(page, "Waiting", "tab");
        await sees(page, "Nobody waits");
        page.faults = page.faults.filter(fault => !/URIError/.test(fault)); // Cockpit's own script says so too
    }),
);

test(
    "who waits for whom, in the table, as a list and as a drawing",
    onMachine({}, async (machine, open) => {
        await some(machine);
        const early = machine.waiter("vms", "disk10", "EX", "--owner=early");
        await until("the first waits", async () => /acquiring/.test((await machine.ctl("list", "--json")).stdout));
        const page = await open({ hash: "waiting" });
        await rows(page, ["disk10"]);
        machine.waiter("vms", "disk10", "PR", "--owner=late");
        await rows(page, ["disk10", "disk10"]);
        await until("both blockers", async () => {
            const text = await page.locator("tbody").innerText();
            return /web/.test(text) && /early/.test(text) && /ago/.test(text);
        });
        await press(page, "disk10");
        await sees(page, "Who waits for whom");
        assert.match(page.url(), /resource=disk10/);
        const chain = page.locator("ol li");
        await until("the chain", async () => (await chain.count()) === 2);
        assert.match(await chain.nth(0).innerText(), /early .* waits for web/);
        assert.match(await chain.nth(1).innerText(), /late .* waits for early/);
        assert.equal(await page.locator("svg rect").count(), 3);
        assert.equal(await page.locator("svg .dl-edge").count(), 2);
        await sees(page, "Value block");
        const own = page.getByRole("table", { name: "Locks of this service on this node" });
        const token = await machine.ctl("list", "vms", "disk10", "--owner=web", "--columns=token", "--no-legend");
        assert.ok((await own.innerText()).includes(token.stdout.trim()), "the fencing token");
        await press(page, "Back to the list");
        await page.getByRole("button", { name: "Stop waiting for disk10" }).first().click();
        assert.match(await dialogText(page), /early/);
        await page.locator("dialog[open]").getByRole("button", { name: "Stop waiting", exact: true }).click();
        await rows(page, ["disk10"]);
        assert.notEqual(await early.ended, 0);
        await machine.ctl("release", "vms", "disk10", "--owner=web");
        await sees(page, "Nobody waits");
    }),
);

test(
    "every filter, every column, and the number of rows: all in the address",
    onMachine({}, async (machine, open) => {
        await some(machine);
        machine.waiter("vms", "disk10", "PR", "--owner=late");
        const page = await open();
        await until("it waits", async () => (await page.locator("tbody tr").count()) === 4);
        const pick = (label, value) => page.getByLabel(label, { exact: true }).selectOption(value);
        const count = text => until(text, async () => (await page.locator(".dl-count").innerText()) === text);
        await page.getByLabel("Waiting only").check();
        await count("1 of 4 locks");
        await rows(page, ["disk10"]);
        assert.match(page.url(), /waiting/);
        await page.getByLabel("Waiting only").uncheck();
        await pick("State", "held");
        await count("3 of 4 locks");
        await pick("State", "acquiring");
        await count("1 of 4 locks");
        await pick("State", "");
        await pick("User", "0");
        await count("4 of 4 locks");
        await pick("Rows on a page", "100");
        for (const column of ["Resource", "Lockspace", "Mode", "State", "Owner", "User", "Lifetime", "Since"]) {
            const head = page.locator("th", { hasText: column });
            await press(page, column);
            const first = await head.getAttribute("aria-sort");
            await press(page, column);
            await until(`${column} the other way round`, async () => {
                const now = await head.getAttribute("aria-sort");
                return now !== first && ["ascending", "descending"].includes(now);
            });
        }
        const again = await open({ hash: new URL(page.url()).hash.slice(2) });
        await until("all of it is back", async () => (await again.locator(".dl-count").innerText()) === "4 of 4 locks");
        assert.equal(await again.getByLabel("User", { exact: true }).inputValue(), "0");
        assert.equal(await again.getByLabel("Rows on a page").inputValue(), "100");
        assert.equal(
            await again.locator("th[aria-sort]:not([aria-sort=none])").innerText(),
            await page.locator("th[aria-sort]:not([aria-sort=none])").innerText(),
        );
    }),
);

test(
    "a label of the largest size is shortened in the table, in full in its title, and widens nothing",
    onMachine({}, async (machine, open) => {
        await machine.ctl("join", "vms");
        const label = "<b>&" + "x".repeat(LABEL - 4);
        await machine.takeMany("vms", "farm", 1, 0, "EX", label);
        const page = await open();
        await rows(page, ["farm-0"]);
        assert.ok((await page.locator("tbody").innerText()).includes("<b>&xxx"));
        const wide = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
        assert.ok(wide[0] <= wide[1], "the page is wider than the screen");
        await press(page, "Release farm-0");
        assert.ok((await dialogText(page)).includes(label), "the dialog names all of it");
        const dialog = await page.locator("dialog[open]").boundingBox();
        assert.ok(dialog.x >= 0 && dialog.x + dialog.width <= 1280, "the dialog is wider than the screen");
    }),
);

test(
    "hostile names and labels are shown and never run",
    onMachine({}, async (machine, open) => {
        await machine.ctl("join", "vms");
        const names = [
            "<img src=x onerror=alert(1)>",
            "\"'><script>alert(1)</script>",
            "a\u202egpj.exe",
            "\u001b[31mred\u0007",
            "javascript:alert(1)",
            "שלום/disk",
            "$0 $1 %s {{x}}",
            "x".repeat(64),
        ];
        const label = "<b>L</b>\u0001" + "ü".repeat(80) + "\u2066";
        for (const [index, name] of names.entries())
            await machine.call(
                "Acquire",
                "sssa{sv}",
                "--",
                "vms",
                name,
                "EX",
                "2",
                "owner",
                "s",
                `<i>${index}</i>\u200f`,
                "label",
                "s",
                label,
            );
        const page = await open();
        await until("all of them", async () => (await page.locator("tbody tr").count()) === names.length);
        const text = await page.locator("tbody").innerText();
        for (const part of [
            "<img src=x onerror=alert(1)>",
            "<script>alert(1)</script>",
            "U+202E",
            "U+001B",
            "U+0007",
            "<b>L</b>",
            "U+200F",
            "<i>0</i>",
            "{{x}}",
        ])
            assert.ok(text.includes(part), `${part} in the table`);
        assert.equal(await page.locator("tbody img, tbody script, tbody b, tbody i").count(), 0);
        for (const name of names) {
            await page.getByLabel("Filter by resource, owner or label").fill(name);
            await until(name, async () => (await page.locator("tbody tr").count()) === 1);
            await page.locator("tbody td:first-child button").click();
            await sees(page, "Queues of the lock manager");
            const again = await page.locator("h2#dl-resource-title").innerText();
            await page.reload();
            await sees(page, "Queues of the lock manager");
            assert.equal(
                await page.locator("h2#dl-resource-title").innerText(),
                again,
                "the address names any resource",
            );
            await page
                .locator("article")
                .getByRole("button", { name: /^Release/ })
                .click();
            assert.match(await dialogText(page), /<b>L<\/b>/);
            await page.keyboard.press("Escape");
            await press(page, "Back to the list");
        }
        const width = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
        assert.ok(width[0] <= width[1], "long names do not widen the page");
    }),
);
