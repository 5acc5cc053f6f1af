// Lockspaces, lost locks, orphans, history, and a service that is not always there.

import assert from "node:assert/strict";
import { appendFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";

import { until } from "./machine.mjs";
import { closeBrowser, onMachine, open as openPage, press, rows, sees } from "./page.mjs";

after(closeBrowser);

test(
    "join, leave, and leave by force as a second step; lost locks stay until dismissed",
    onMachine({}, async (machine, open) => {
        const page = await open({ hash: "lockspaces" });
        await sees(page, "No lockspace is joined");
        await press(page, "Join a lockspace");
        await page.getByLabel("Name of the lockspace").fill("bad name!");
        await press(page, "Join");
        await sees(page, "That did not work");
        await page.getByLabel("Name of the lockspace").fill("vms");
        await press(page, "Join");
        await page.locator("dialog[open]").waitFor({ state: "detached" });
        await sees(page, "node 1, this one");
        await machine.ctl("join", "backup");
        await sees(page, "Leave");
        await until("the lockspace of another client", async () => (await page.locator("section").count()) === 2);
        await press(page, "Leave backup");
        await page.locator("dialog[open]").getByRole("button", { name: "Leave", exact: true }).click();
        await until("left", async () => (await page.locator("section").count()) === 1);

        await machine.ctl("acquire", "vms", "disk1", "EX", "--owner=web");
        await machine.ctl("acquire", "vms", "disk2", "EX", "--owner=db");
        await until("two locks", async () => /2 locks/.test(await page.locator(".dl-facts-line").innerText()));
        await press(page, "Leave vms");
        await page.locator("dialog[open]").getByRole("button", { name: "Leave", exact: true }).click();
        await sees(page, "The service refused");
        const force = page.getByRole("button", { name: "Leave and lose 2 locks" });
        assert.equal(await force.getAttribute("aria-disabled"), "true");
        await force.click({ force: true });
        assert.match((await machine.ctl("list")).stdout, /disk1/, "nothing happens before the name is typed");
        await page.getByLabel("Type vms to leave by force").fill("vms");
        await force.click();
        await sees(page, "2 locks were lost");
        const alert = page.locator(".pf-m-danger", { hasText: "2 locks were lost" });
        for (const part of ["disk1", "disk2", "web", "db"]) assert.match(await alert.innerText(), new RegExp(part));
        await page.reload();
        await sees(page, "2 locks were lost");
        await press(page, "Dismiss the lost locks");
        await alert.waitFor({ state: "detached" });
        await page.reload();
        await sees(page, "No lockspace is joined");
        assert.equal(await page.getByText("lost").count(), 0, "dismissed is dismissed");
    }),
);

test(
    "locks that were lost before the page was open are listed with their owners, also to nobody",
    onMachine({ user: 65534 }, async (machine, open) => {
        await machine.ctl("join", "vms");
        await machine.ctl("acquire", "vms", "disk1", "EX", "--owner=web");
        await machine.ctl("leave", "vms", "--force");
        const page = await open();
        await sees(page, "1 lock was lost");
        const alert = page.locator(".pf-m-danger", { hasText: "1 lock was lost" });
        for (const part of ["disk1", "web", "this node left the lockspace"])
            assert.match(await alert.innerText(), new RegExp(part));
        await machine.ctl("join", "vms");
        await machine.ctl("acquire", "vms", "disk2", "EX", "--owner=db");
        await machine.ctl("leave", "vms", "--force");
        await sees(page, "2 locks were lost");
        await press(page, "Dismiss the lost locks");
        await alert.waitFor({ state: "detached" });
        await machine.ctl("join", "vms");
        await machine.ctl("acquire", "vms", "disk3", "EX", "--owner=mail");
        await machine.ctl("leave", "vms", "--force");
        await sees(page, "1 lock was lost");
        assert.match(await page.locator(".pf-m-danger").first().innerText(), /disk3/);
    }),
);

test(
    "a lock that is lost after a boot is shown beside one from before it that has the same number",
    onMachine({}, async (machine, open) => {
        const lose = async resource => {
            await machine.ctl("join", "vms");
            await machine.ctl("acquire", "vms", resource, "EX", "--owner=web");
            await machine.ctl("leave", "vms", "--force");
        };
        await lose("disk1");
        const page = await open();
        await sees(page, "1 lock was lost");
        await machine.killService();
        await rm(join(machine.dir, "state"), { recursive: true }); // it is in /run
        await machine.startService();
        await lose("disk2");
        await sees(page, "2 locks were lost");
        assert.match(await page.locator(".pf-m-danger").first().innerText(), /disk2/);
    }),
);

const line = (n, fields) =>
    JSON.stringify({ __CURSOR: `c${n}`, __REALTIME_TIMESTAMP: String(1.79e15 + n * 1e6), PRIORITY: "6", ...fields }) +
    "\n";

test(
    "history: the journal by lock, live",
    onMachine({}, async (machine, open) => {
        await machine.ctl("join", "vms");
        const journal = join(machine.dir, "journal");
        await writeFile(
            journal,
            line(1, { MESSAGE: "granted", DLM_LOCKSPACE: "vms", DLM_RESOURCE: "disk1" }) +
                line(2, {
                    MESSAGE: "lock lost <b>",
                    PRIORITY: "3",
                    MESSAGE_ID: "2f2fea20ee4043e2b85455e2a5854cec",
                    DLM_LOCKSPACE: "vms",
                    DLM_RESOURCE: "disk2",
                }),
        );
        const page = await open({ hash: "history" });
        await sees(page, "lock lost <b>");
        await until("both", async () => (await page.locator("tbody tr").count()) === 2);
        const message = page.locator("tbody td:last-child").first();
        const breaks = await message.evaluate(cell => getComputedStyle(cell).whiteSpace);
        assert.equal(breaks, "normal", "a long message is shown in full");
        await appendFile(journal, line(3, { MESSAGE: "released", DLM_LOCKSPACE: "vms", DLM_RESOURCE: "disk1" }));
        await until("the new one on top", async () =>
            /released/.test(await page.locator("tbody tr").first().innerText()),
        );
        await press(page, "Only lost locks");
        await until("one", async () => (await page.locator("tbody tr").count()) === 1);
        await press(page, "disk2");
        await press(page, "History of this resource");
        await until("one of this resource", async () => /disk2/.test(await page.locator("tbody").innerText()));
        await press(page, "Show all");
        await until("all", async () => (await page.locator("tbody tr").count()) === 3);
        await writeFile(journal, "");
        await page.reload();
        await sees(page, "Nothing in the journal");
    }),
);

test(
    "the service is killed and comes back; meanwhile what was known stays, and says so",
    onMachine({}, async (machine, open) => {
        await machine.ctl("join", "vms");
        await machine.ctl("acquire", "vms", "disk1", "EX", "--owner=web");
        const page = await open();
        await rows(page, ["disk1"]);
        await machine.killService();
        await sees(page, "The lock service has stopped");
        await rows(page, ["disk1"]);
        assert.equal(await page.getByRole("button", { name: "Release disk1" }).getAttribute("aria-disabled"), "true");
        await machine.startService();
        await page.getByText("The lock service has stopped").waitFor({ state: "detached" });
        await machine.ctl("acquire", "vms", "disk2", "EX", "--owner=db");
        await rows(page, ["disk2", "disk1"], "it follows again");
        await press(page, "Release disk1");
        await page.getByLabel("Reason for the log (optional)").fill("the guest is gone");
        await page.locator("dialog[open]").getByRole("button", { name: "Release", exact: true }).click();
        await rows(page, ["disk2"]);
        await until("the reason is logged, with who it was", () =>
            /op=release.*disk1.*reason="the guest is gone – Cockpit: root"/.test(machine.service.log),
        );
    }),
);

test(
    "who waited is still shown when the service has been killed",
    onMachine({}, async (machine, open) => {
        await machine.ctl("join", "vms");
        await machine.ctl("acquire", "vms", "disk1", "EX", "--owner=web");
        machine.waiter("vms", "disk1", "EX", "--owner=db");
        const page = await open({ hash: "waiting" });
        await rows(page, ["disk1"]);
        await machine.killService();
        await sees(page, "The lock service has stopped");
        await rows(page, ["disk1"]);
        await machine.startService();
        await page.getByText("The lock service has stopped").waitFor({ state: "detached" });
        await rows(page, ["disk1"], "dlmlockctl has asked again");
        await machine.ctl("release", "vms", "disk1", "--owner=web");
        await sees(page, "Nobody waits");
    }),
);

test(
    "no service: the page says so and starts it",
    onMachine({ service: false }, async (machine, open) => {
        const page = await open();
        await sees(page, "The lock service is not running");
        await press(page, "Start the service");
        await until("systemctl was asked", () => machine.read("start-asked").then(() => true));
        await machine.startService();
        await writeFile(join(machine.dir, "started"), "");
        await sees(page, "Nothing is locked");
    }),
);

test(
    "a session of nobody looks, and changes nothing",
    onMachine({ user: 65534 }, async (machine, open) => {
        await machine.ctl("join", "vms");
        await machine.ctl("acquire", "vms", "disk1", "EX", "--owner=web");
        const page = await open();
        await rows(page, ["disk1"]);
        await sees(page, "Read-only");
        const release = page.getByRole("button", { name: "Release disk1" });
        assert.equal(await release.getAttribute("aria-disabled"), "true");
        assert.match(await release.getAttribute("title"), /administrative access/);
        await release.click({ force: true });
        assert.equal(await page.locator("dialog").count(), 0);
        await machine.ctl("acquire", "vms", "disk2", "EX", "--owner=web");
        await rows(page, ["disk2", "disk1"], "it follows");
    }),
);

test(
    "two tabs at once: when one is closed the other goes on",
    onMachine({}, async (machine, open) => {
        await machine.ctl("join", "vms");
        const first = await open();
        const second = await openPage(machine, { context: first.context() });
        await machine.ctl("acquire", "vms", "disk1", "EX", "--owner=web");
        await rows(first, ["disk1"]);
        await rows(second, ["disk1"]);
        await first.close();
        await machine.ctl("acquire", "vms", "disk2", "EX", "--owner=web");
        await rows(second, ["disk2", "disk1"]);
        assert.deepEqual(second.faults, []);
    }),
);
