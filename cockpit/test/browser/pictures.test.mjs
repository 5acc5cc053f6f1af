// Each view and state in five layouts: axe without findings, nothing wider than the
// screen, and a picture in artefacts/ to be looked at. Also languages and keyboard.

import assert from "node:assert/strict";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";

import { until } from "./machine.mjs";
import { accessible, closeBrowser, look, lookAround, onMachine, press, rows, sees } from "./page.mjs";

after(closeBrowser);

const layouts = {
    desktop: { width: 1680, height: 1130 },
    medium: { width: 1040, height: 698 },
    mobile: { width: 320, height: 1200 },
    dark: { width: 1280, height: 900, dark: true },
    rtl: { width: 1280, height: 900, locale: "he-IL" },
};

async function busy(machine) {
    await machine.ctl("join", "vms");
    await machine.ctl("join", "backup");
    for (const [resource, owner] of [
        ["disk1", "web"],
        ["disk2", "db-5d1c2c7c-11aa-4b7e-9f55-0b1c33d4e5f6"],
        ["disk10", "mail"],
    ])
        await machine.ctl(
            "acquire",
            "vms",
            resource,
            "EX",
            `--owner=${owner}`,
            `--label=/var/lib/libvirt/images/${resource}.qcow2`,
        );
    await machine.ctl("acquire", "backup", "nightly", "PW", "--owner=backup");
    await machine.ctl("acquire", "vms", "images", "PR", "--owner=reader");
    for (const [n, mode] of [
        [1, "EX"],
        [2, "PR"],
        [3, "EX"],
    ]) {
        machine.waiter("vms", "disk1", mode, `--owner=waiter-${n}`);
        await until(
            "it waits",
            async () =>
                (
                    JSON.parse((await machine.ctl("list", "--json")).stdout).filter?.(
                        lock => lock.state === "acquiring",
                    ) ?? []
                ).length === n,
        );
    }
    const line = (n, fields) =>
        JSON.stringify({
            __CURSOR: `c${n}`,
            __REALTIME_TIMESTAMP: String(1.79e15 + n * 6e7),
            PRIORITY: "6",
            DLM_LOCKSPACE: "vms",
            DLM_RESOURCE: "disk1",
            ...fields,
        }) + "\n";
    await writeFile(
        join(machine.dir, "journal"),
        line(1, { MESSAGE: "lockspace ready", DLM_RESOURCE: undefined }) +
            line(2, { MESSAGE: "lock granted lockspace=vms resource=disk1 mode=EX owner=web" }) +
            line(3, { MESSAGE: 'lockspace stopped lockspace=vms err="the cluster has no quorum"', PRIORITY: "4" }) +
            line(4, {
                MESSAGE: 'lock lost lockspace=vms resource=disk7 err="the lockspace was left by force"',
                PRIORITY: "3",
                DLM_RESOURCE: "disk7",
                MESSAGE_ID: "2f2fea20ee4043e2b85455e2a5854cec",
            }),
    );
}

async function dialogs(page, layout) {
    const open = async (selector, name) => {
        await page.locator(selector).first().click();
        await page.locator("dialog[open]").waitFor();
        await look(page, layout, name);
        await page.keyboard.press("Escape");
        await page.locator("dialog[open]").waitFor({ state: "detached" });
    };
    await page.locator("#tab-locks").click();
    await open("tbody .dl-action button", "dialog-release");
    await page.locator("#tab-lockspaces").click();
    await open(".dl-toolbar button", "dialog-join");
    await page.locator("section .pf-v6-c-card__actions button").last().click();
    await page.locator("dialog[open] button[type=submit]").click();
    await page.locator("dialog[open] input").nth(1).waitFor(); // the reason, and since the refusal the name
    await look(page, layout, "dialog-leave-by-force");
    await page.keyboard.press("Escape");
}

for (const [layout, settings] of Object.entries(layouts)) {
    test(
        `every view: ${layout}`,
        onMachine({}, async (machine, open) => {
            await busy(machine);
            const page = await open(settings);
            assert.equal(await page.evaluate(() => document.documentElement.dir), layout === "rtl" ? "rtl" : "ltr");
            assert.equal(
                await page.evaluate(() => document.documentElement.classList.contains("pf-v6-theme-dark")),
                layout === "dark",
            );
            await until("all locks", async () => (await page.locator("tbody tr").count()) === 8);
            await look(page, layout, "locks");
            await page.locator("#tab-waiting").click();
            await until("who is in the way", async () => (await page.locator("tbody ul li").count()) >= 3);
            await look(page, layout, "waiting");
            await page.locator("tbody td:first-child button").first().click();
            await page.locator("svg .dl-box").first().waitFor();
            await look(page, layout, "resource");
            await page.locator("#tab-lockspaces").click();
            await page.locator(".dl-node").first().waitFor();
            await look(page, layout, "lockspaces");
            await page.locator("#tab-orphans").click();
            await until("looked", async () => (await page.locator("section [role=progressbar]").count()) === 0);
            await look(page, layout, "orphans");
            await page.locator("#tab-history").click();
            await until("four messages", async () => (await page.locator("tbody tr").count()) === 4);
            await look(page, layout, "history");
            await dialogs(page, layout);
            await machine.ctl("leave", "vms", "--force");
            await page.locator(".dl-alerts .pf-m-danger").waitFor();
            await page.locator("#tab-locks").click();
            await look(page, layout, "lost");
            await page.getByRole("searchbox").fill("nothing like that");
            await page.locator(".pf-v6-c-empty-state").waitFor();
            await look(page, layout, "no-match");
            await machine.killService();
            await until("stale", async () => (await page.locator(".dl-alerts .pf-m-primary").count()) === 1);
            await look(page, layout, "stopped");
            await page.reload();
            await page.locator(".pf-v6-c-empty-state .pf-m-primary").waitFor();
            await look(page, layout, "absent");
        }),
    );
}

test(
    "nothing locked, and no lockspace",
    onMachine({}, async (machine, open) => {
        const page = await open();
        await sees(page, "Nothing is locked");
        await lookAround(page, "nothing");
        await press(page, "Lockspaces", "tab");
        await sees(page, "No lockspace is joined");
        await lookAround(page, "no-lockspace");
        await press(page, "Waiting", "tab");
        await sees(page, "Nobody waits");
        await lookAround(page, "nobody-waits");
    }),
);

test(
    "read-only",
    onMachine({ user: 65534 }, async (machine, open) => {
        await machine.ctl("join", "vms");
        await machine.ctl("acquire", "vms", "disk1", "EX", "--owner=web");
        const page = await open();
        await sees(page, "Read-only");
        await rows(page, ["disk1"]);
        await lookAround(page, "read-only");
    }),
);

test(
    "German and Hebrew, and 4K",
    onMachine({}, async (machine, open) => {
        await busy(machine);
        const german = await open({ locale: "de-DE", width: 3840, height: 2160 });
        await sees(german, "Cluster-Sperren");
        await until("all", async () => (await german.locator("tbody tr").count()) === 8);
        assert.equal(await german.title(), "Cluster-Sperren");
        await look(german, "4k", "locks-german");
        const cut = await german.$$eval("td.dl-action", cells =>
            cells.filter(cell => cell.scrollWidth > cell.clientWidth).map(cell => cell.innerText),
        );
        assert.deepEqual(cut, [], "buttons that are cut off");
        for (const tab of ["waiting", "lockspaces", "orphans", "history"]) {
            await german.locator("#tab-" + tab).click();
            await german.locator("tbody tr, section").first().waitFor();
            await accessible(german, `${tab} in German`);
        }
        const hebrew = await open({ locale: "he-IL" });
        await sees(hebrew, "נעילות אשכול");
        const left = await hebrew.locator("h1").boundingBox();
        assert.ok(left.x > 600, "it begins at the right");
    }),
);

test(
    "keyboard only: tabs, a filter, a resource, a dialog",
    onMachine({}, async (machine, open) => {
        await busy(machine);
        const page = await open();
        await until("all", async () => (await page.locator("tbody tr").count()) === 8);
        const key = name => page.keyboard.press(name);
        const focused = () =>
            page.evaluate(
                () =>
                    document.activeElement?.id ||
                    document.activeElement?.getAttribute("aria-label") ||
                    document.activeElement?.textContent,
            );
        for (let i = 0; i < 20 && (await focused()) !== "tab-locks"; i++) await key("Tab");
        await key("ArrowRight");
        assert.equal(await focused(), "tab-waiting");
        await key("End");
        assert.equal(await focused(), "tab-history");
        await key("Home");
        await key("Tab");
        assert.equal(await focused(), "Filter by resource, owner or label");
        await page.keyboard.type("nightly");
        await rows(page, ["nightly"]);
        for (let i = 0; i < 30 && (await focused()) !== "nightly"; i++) await key("Tab");
        await key("Enter");
        await until("the title has the focus", async () => (await focused()) === "dl-resource-title");
        await key("Shift+Tab");
        await key("Enter");
        await rows(page, ["nightly"]);
        for (let i = 0; i < 40 && (await focused()) !== "Release nightly"; i++) await key("Tab");
        await key("Enter");
        await page.locator("dialog[open]").waitFor();
        assert.ok(
            await page.evaluate(() => document.activeElement.closest("dialog[open]") !== null),
            "the dialog has the focus",
        );
        await page.keyboard.type("by hand");
        await key("Tab");
        assert.equal(await focused(), "Release");
        await key("Enter");
        await sees(page, "No lock matches");
    }),
);
