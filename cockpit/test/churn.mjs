// An hour of changes, and what the page's heap is all along: node churn.mjs
// docs/benchmarks.md. Some ten changes a second, each of a lock with a name that was
// not there before; every minute somebody waits, a lock is converted, a lockspace
// comes and is lost, and the user walks through the views. Two browsers look: in one
// the garbage is collected before each sample, which shows what is kept; the other is
// left alone, which shows what Chromium lets lie about.
// MINUTES (60) and LOCKS (10000) change the run. Each sample is printed as it is taken.

import { readFileSync, writeFileSync } from "node:fs";
import { cpus, loadavg } from "node:os";
import { join } from "node:path";

import { Machine, until } from "./browser/machine.mjs";
import { closeBrowser, open } from "./browser/page.mjs";
import { write } from "./report.mjs";

const MINUTES = Number(process.env.MINUTES ?? 60);
const LOCKS = Number(process.env.LOCKS ?? 10_000);
const SECOND = 1000;
const EACH = 5; // locks that are acquired and released in each second: two changes each
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));
const total = LOCKS.toLocaleString("en-US");

/** The resident memory of a process, in MB. */
function resident(pid) {
    const pages = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"));
    return Number(pages[1]) / 1024;
}

/** The bridge, which cockpit-ws has started. */
function bridgeOf(ws) {
    const children = readFileSync(`/proc/${ws.pid}/task/${ws.pid}/children`, "utf8").trim().split(/\s+/);
    return Number(children[0]);
}

class Looker {
    constructor(name, page, collects) {
        Object.assign(this, { name, page, collects });
    }

    static async start(machine, name, collects) {
        const page = await open(machine); // in a context of its own, so in a process of its own
        page.setDefaultTimeout(120_000);
        const looker = new Looker(name, page, collects);
        looker.session = await page.context().newCDPSession(page);
        await looker.session.send("Performance.enable");
        await until(`${name}: all are loaded`, async () => (await looker.count()) === `${total} locks`, 60_000);
        return looker;
    }

    count() {
        return this.page.locator(".dl-count").innerText();
    }

    async sample() {
        if (this.collects) await this.session.send("HeapProfiler.collectGarbage");
        const { usedSize } = await this.session.send("Runtime.getHeapUsage");
        const { metrics } = await this.session.send("Performance.getMetrics");
        const value = name => metrics.find(metric => metric.name === name).value;
        return { heap: usedSize / 1e6, nodes: value("Nodes"), listeners: value("JSEventListeners") };
    }

    /** Through the views, as a user would. */
    async walk() {
        const { page } = this;
        await page.locator("#tab-waiting").click();
        await page.locator("tbody td:first-child button").first().click();
        await page.locator("h2#dl-resource-title").waitFor();
        for (const tab of ["lockspaces", "orphans", "history", "locks"]) {
            await page.locator("#tab-" + tab).click();
            await sleep(SECOND);
        }
        await page.getByRole("searchbox").fill("farm-9");
        await page.locator("tbody tr").first().waitFor();
        await page.getByRole("searchbox").fill("");
    }
}

/** What goes on all the time; counts the changes. */
class Changes {
    done = 0;
    next = 0;
    journal = [];

    constructor(machine) {
        this.machine = machine;
    }

    async second() {
        await this.machine.takeMany("vms", "churn", EACH, this.next);
        for (let n = this.next; n < this.next + EACH; n++) this.note(`granted churn-${n}`, `churn-${n}`);
        this.next += EACH;
        await this.machine.call("ReleaseOwner", "ss", "vms", "churn");
        this.done += 2 * EACH;
    }

    note(message, resource) {
        const n = this.journal.length + this.done;
        this.journal.push(
            JSON.stringify({
                __CURSOR: `c${n}`,
                __REALTIME_TIMESTAMP: String(Date.now() * 1000 + n),
                PRIORITY: "6",
                MESSAGE: message,
                DLM_LOCKSPACE: "vms",
                DLM_RESOURCE: resource,
            }),
        );
        this.journal = this.journal.slice(-1000);
    }

    /** A wait, a conversion, a lockspace that is left with a lock in it. */
    async minute(n) {
        const { machine } = this;
        await machine.ctl("acquire", "vms", `held-${n}`, "EX", "--owner=holder");
        this.waiter = machine.waiter("vms", `held-${n}`, "PR", "--owner=waiter");
        const waits = async () =>
            (await machine.ctl("list", "vms", `held-${n}`, "--json")).stdout.includes("acquiring");
        await until("it waits", waits, 60_000);
        await machine.ctl("join", `space-${n}`);
        await machine.ctl("acquire", `space-${n}`, "lost", "EX", "--owner=loser");
        await machine.ctl("leave", `space-${n}`, "--force");
        writeFileSync(join(machine.dir, "journal"), this.journal.map(line => line + "\n").join(""));
        this.done += 3;
    }

    async minuteOver(n) {
        const { machine } = this;
        await machine.ctl("convert", "vms", `held-${n}`, "PR", "--owner=holder");
        await this.waiter.ended;
        await machine.call("ReleaseOwner", "ss", "vms", "holder");
        await machine.call("ReleaseOwner", "ss", "vms", "waiter");
        machine.processes = machine.processes.filter(child => child !== this.waiter);
        this.done += 5;
    }
}

async function hour(machine, lookers) {
    const changes = new Changes(machine);
    const began = Date.now();
    const samples = [];
    const take = async minute => {
        const sample = { minute, changes: changes.done, load: loadavg()[0] };
        for (const looker of lookers) sample[looker.name] = await looker.sample();
        sample.service = resident(machine.service.pid);
        sample.bridge = resident(bridgeOf(machine.ws));
        samples.push(sample);
        console.log(JSON.stringify(sample));
    };
    await take(0);
    for (let minute = 1; minute <= MINUTES; minute++) {
        await changes.minute(minute);
        const walks = lookers.map(looker => looker.walk());
        const ends = began + minute * 60 * SECOND;
        for (let tick = Date.now(); tick < ends; tick = Date.now()) {
            await changes.second();
            await sleep(Math.max(0, tick + SECOND - Date.now()));
        }
        await Promise.all(walks);
        await changes.minuteOver(minute);
        for (const looker of lookers)
            await until(`${looker.name}: quiet`, async () => (await looker.count()) === `${total} locks`, 60_000);
        await take(minute);
    }
    return { samples, minutes: (Date.now() - began) / 60_000 };
}

const mb = value => value.toFixed(1);

function text({ samples, minutes }) {
    const last = samples.at(-1);
    const most = Math.max(...samples.map(sample => sample.alone.heap));
    const kept = Math.max(...samples.map(sample => sample.collected.heap));
    const shown = samples.filter(
        ({ minute }) => [0, 1, 5].includes(minute) || minute % 10 === 0 || minute === last.minute,
    );
    const row = ({ minute, changes, collected, alone, service, bridge }) =>
        `| ${minute} | ${changes.toLocaleString("en-US")} | ${mb(collected.heap)} MB | ${mb(alone.heap)} MB | ` +
        `${collected.nodes} | ${collected.listeners} | ${mb(bridge)} MB | ${mb(service)} MB |`;
    const load = samples.map(sample => sample.load).sort((a, b) => a - b)[Math.floor(samples.length / 2)];
    return [
        `${cpus()[0].model}, ${cpus().length} cores, node ${process.version}, ` +
            `${new Date().toISOString().slice(0, 10)}, median load ${load.toFixed(2)}.`,
        "",
        `${last.changes.toLocaleString("en-US")} changes in ${minutes.toFixed(0)} minutes beside ${total} locks. ` +
            `Largest heap of all samples, one a minute: ${mb(kept)} MB`,
        `collected, ${mb(most)} MB left alone (goal: 40 MB).`,
        "",
        "| minute | changes | heap, collected | heap, left alone | DOM nodes | listeners | bridge, resident | " +
            "dlmlockd, resident |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        ...shown.map(row),
    ].join("\n");
}

const machine = await Machine.start();
try {
    await machine.ctl("join", "vms");
    await machine.takeMany("vms", "farm", LOCKS);
    const lookers = [await Looker.start(machine, "collected", true), await Looker.start(machine, "alone", false)];
    const result = await hour(machine, lookers);
    for (const { name, page } of lookers)
        if (page.faults.length > 0) throw new Error(`${name}: ${page.faults.slice(0, 5).join("; ")}`);
    write(process.argv[2], "bench-cockpit-hour", text(result));
    console.log(text(result));
} catch (error) {
    console.error(machine.log().slice(-3000));
    throw error;
} finally {
    await closeBrowser();
    await machine.stop();
}
