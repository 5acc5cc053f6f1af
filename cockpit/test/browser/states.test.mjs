// What the embedded engine does not do: a lockspace that stands still, members,
// orphans, no quorum, a user who may not look. The answers of the real service are
// changed on their way into the page, in the browser; the lab has the real ones.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { until } from "./machine.mjs";
import { closeBrowser, dialogText, look, lookAround, onMachine, press, rows, sees } from "./page.mjs";

after(closeBrowser);

/** Runs in the page, before Cockpit's script: lets change() see each answer, and keep what was called. */
function intercept(source) {
    const change = (0, eval)(source);
    window.called = [];
    let real;
    const wrap = client => {
        const call = client.call.bind(client);
        client.call = (path, iface, member, args, options) => {
            window.called.push([member, args]);
            const answer = () => call(path, iface, member, args, options);
            const changed = change(member, args, answer);
            return changed === undefined ? answer() : changed;
        };
        const subscribe = client.subscribe.bind(client);
        client.subscribe = (match, callback, rule) => {
            if (match.path_namespace) window.signal = callback;
            return subscribe(match, callback, rule);
        };
        return client;
    };
    Object.defineProperty(window, "cockpit", {
        configurable: true,
        get: () => real,
        set: value => {
            real = value;
            const dbus = real.dbus;
            real.dbus = (name, options) =>
                name === "org.example.DlmLock" ? wrap(dbus(name, options)) : dbus(name, options);
            const { permission, spawn } = real;
            real.permission = options => (window.permission = permission(options));
            window.spawned = [];
            real.spawn = (argv, options) => {
                window.spawned.push(argv[0]);
                return spawn(argv, options);
            };
        },
    });
}

/** Opens a page whose answers are changed by a function, which runs in the browser. */
async function openChanged(open, change, settings = {}) {
    const first = await open(settings);
    const context = first.context();
    await first.close();
    await context.addInitScript({ content: `(${intercept})(${JSON.stringify(`(${change})`)})` });
    return open({ ...settings, context });
}

const cluster = (member, args, answer) => {
    if (member === "GetAll")
        return answer().then(([all]) => [
            {
                ...all,
                Engine: { t: "s", v: "dlm" },
                ClusterName: { t: "s", v: "production" },
                NodeID: { t: "u", v: 2 },
                NodeName: { t: "s", v: "node-b" },
                Nodes: { t: "a{us}", v: { 1: "node-a", 2: "node-b" } },
                QuorumState: { t: "s", v: "inquorate" },
                Degraded: {
                    t: "s",
                    v: "the state file can't be written: no space left on device; make room in /run",
                },
            },
        ]);
    if (member === "ListLockspaces")
        return answer().then(([spaces]) => [
            spaces.map(([name, state, locks, , details]) => [
                name,
                state,
                locks,
                2,
                {
                    ...details,
                    members: { t: "au", v: [1, 2, 3] },
                    stopped: { t: "b", v: true },
                    quorate: { t: "b", v: false },
                    recovery: { t: "u", v: 17 },
                    reason: { t: "s", v: "node 3 has failed and is not fenced yet" },
                },
            ]),
        ]);
    return undefined;
};

test(
    "a cluster in trouble: no quorum, degraded, a lockspace that stands still, its members",
    onMachine({}, async (machine, open) => {
        await machine.ctl("join", "vms");
        for (const [layout, settings] of [
            ["desktop", { width: 1680 }],
            ["medium", { width: 1040, height: 698 }],
            ["dark", { dark: true }],
            ["mobile", { width: 320 }],
            ["rtl", { locale: "he-IL" }],
        ]) {
            const page = await openChanged(open, cluster, { ...settings, hash: "lockspaces" });
            await page.locator(".dl-node").first().waitFor();
            assert.equal(await page.locator(".dl-node").count(), 3);
            assert.match(await page.locator(".dl-own").innerText(), /node-b/);
            assert.match(await page.locator(".dl-node").first().innerText(), /node-a/, "the names of the others");
            for (const part of ["production", "no space left on device", "node 3 has failed and is not fenced yet"])
                await sees(page, part);
            await look(page, layout, "trouble");
        }
    }),
);

const orphans = (member, args, answer) => {
    window.left ??= [
        [11, "disk1", "EX", { who: { t: "s", v: "/images/" }, token: { t: "t", v: 1.79e15 } }],
        [12, "<b>disk2</b>", "PR", {}],
    ];
    if (member === "ListOrphans") return Promise.resolve([window.left]);
    if (member === "Purge" && window.left.length === 2) {
        window.left = [...window.left, [13, "disk3", "EX", {}]];
        return Promise.reject({
            name: "org.freedesktop.DBus.Error.InvalidArgs",
            problem: null,
            message: "purge vms: the orphans are others than those listed",
        });
    }
    if (member === "Purge") {
        window.left = [];
        return Promise.resolve([3]);
    }
    return undefined;
};

test(
    "orphans: exactly what was shown is purged, and others are refused in the dialog",
    onMachine({}, async (machine, open) => {
        await machine.ctl("join", "vms");
        const page = await openChanged(open, orphans, { hash: "orphans" });
        await rows(page, ["disk1", "<b>disk2</b>"]);
        await lookAround(page, "orphans-two");
        await press(page, "Purge 2 orphans");
        const purge = page.locator("dialog[open]").getByRole("button", { name: "Purge 2 orphans" });
        assert.equal(await purge.getAttribute("aria-disabled"), "true");
        await page.getByLabel("Type vms to purge them").fill("vms");
        await lookAround(page, "dialog-purge");
        await purge.click();
        await sees(page, "the orphans are others than those listed");
        assert.match(await dialogText(page), /disk1/);
        await press(page, "Cancel");
        await rows(page, ["disk1", "<b>disk2</b>", "disk3"], "and looks again");
        await press(page, "Purge 3 orphans");
        await page.getByLabel("Type vms to purge them").fill("vms");
        await page.locator("dialog[open]").getByRole("button", { name: "Purge 3 orphans" }).click();
        await sees(page, "No orphans.");
        const calls = await page.evaluate(() =>
            window.called.filter(([member]) => member === "Purge").map(([, args]) => args[1]),
        );
        assert.deepEqual(calls, [
            [11, 12],
            [11, 12, 13],
        ]);
    }),
);

const incomplete = (member, args, answer) =>
    member === "Inspect"
        ? answer().then(([details]) => [
              {
                  ...details,
                  complete: { t: "b", v: false },
                  master: { t: "u", v: 2 },
                  missing: { t: "as", v: ["the queues: node 2 keeps them <i>"] },
              },
          ])
        : undefined;

test(
    "a resource whose queues another node keeps: the master, and what could not be determined and why",
    onMachine({}, async (machine, open) => {
        await machine.ctl("join", "vms");
        await machine.ctl("acquire", "vms", "disk1", "EX", "--owner=web");
        const page = await openChanged(open, incomplete);
        await press(page, "disk1");
        await sees(page, "Some details could not be determined");
        await sees(page, "the queues: node 2 keeps them <i>");
        await sees(page, "node 2");
        await sees(page, "Another node keeps the queues");
        await lookAround(page, "incomplete");
    }),
);

const denied = member =>
    member === "GetAll" || member === "ListLocks"
        ? Promise.reject({
              problem: null,
              name: "org.freedesktop.DBus.Error.AccessDenied",
              message: "inspect: only root and the group dlmlock may do this",
          })
        : undefined;

test(
    "who may not look is told so, in the service's words",
    onMachine({}, async (machine, open) => {
        const page = await openChanged(open, denied);
        await sees(page, "You are not allowed to see the locks");
        await sees(page, "only root and the group dlmlock");
        await lookAround(page, "denied");
    }),
);

const full = member =>
    member === "Subscribe"
        ? Promise.reject({
              problem: null,
              name: "org.example.DlmLock.Error.LimitExceeded",
              message: "64 connections are subscribed",
          })
        : undefined;

test(
    "without a subscription the list is there, and says that it does not follow",
    onMachine({}, async (machine, open) => {
        await machine.ctl("join", "vms");
        await machine.ctl("acquire", "vms", "disk1", "EX");
        const page = await openChanged(open, full);
        await rows(page, ["disk1"]);
        await sees(page, "Live updates are off");
        await lookAround(page, "not-subscribed");
    }),
);

test(
    "a subscription that was lost is renewed, and all is looked at anew",
    onMachine({}, async (machine, open) => {
        await machine.ctl("join", "vms");
        await machine.ctl("acquire", "vms", "disk1", "EX", "--owner=a");
        const page = await openChanged(open, () => undefined);
        await rows(page, ["disk1"]);
        const before = await page.evaluate(() => window.called.filter(([member]) => member === "Subscribe").length);
        await page.evaluate(() =>
            window.signal("/org/example/DlmLock", "org.example.DlmLock", "SubscriptionLost", []),
        );
        await until("subscribed again", () =>
            page.evaluate(n => window.called.filter(([member]) => member === "Subscribe").length > n, before),
        );
        await machine.ctl("acquire", "vms", "disk2", "EX", "--owner=a");
        await rows(page, ["disk2", "disk1"]);
    }),
);

const slow = (member, args, answer) =>
    member === "ListLocks" && !args[0].state
        ? new Promise(resolve => {
              window.goOn = () => resolve(answer());
          })
        : undefined;

test(
    "while the first page is on its way",
    onMachine({}, async (machine, open) => {
        const page = await openChanged(open, slow);
        await sees(page, "Loading the locks");
        await lookAround(page, "loading");
        await page.evaluate(() => window.goOn());
        await sees(page, "Nothing is locked");
    }),
);

const adoptable = member => {
    if (member === "ListOrphans") return Promise.resolve([[[11, "disk1", "EX", {}]]]);
    return member === "AdoptOrphan" ? Promise.resolve([1, "/l"]) : undefined;
};

test(
    "an orphan is adopted for the owner that is named",
    onMachine({}, async (machine, open) => {
        await machine.ctl("join", "vms");
        const page = await openChanged(open, adoptable, { hash: "orphans" });
        await press(page, "Adopt disk1");
        const adopt = page.locator("dialog[open]").getByRole("button", { name: "Adopt", exact: true });
        assert.equal(await adopt.getAttribute("aria-disabled"), "true");
        await page.getByLabel("Owner").fill("web");
        await lookAround(page, "dialog-adopt");
        await adopt.click();
        await page.locator("dialog[open]").waitFor({ state: "detached" });
        const calls = await page.evaluate(() => window.called.filter(([member]) => member === "AdoptOrphan"));
        const options = { resource: { t: "s", v: "disk1" }, mode: { t: "s", v: "EX" }, owner: { t: "s", v: "web" } };
        assert.deepEqual(calls, [["AdoptOrphan", ["vms", 11, options]]]);
    }),
);

test(
    "the journal is read again when the session gets administrative access or loses it",
    onMachine({}, async (machine, open) => {
        const page = await openChanged(open, () => undefined, { hash: "history" });
        await sees(page, "Nothing in the journal");
        const readers = () => page.evaluate(() => window.spawned.filter(name => name === "journalctl").length);
        const before = await readers();
        await page.evaluate(() => {
            window.permission.allowed = false;
            window.permission.dispatchEvent("changed");
        });
        await sees(page, "Read-only");
        await until("read again", async () => (await readers()) > before);
    }),
);
