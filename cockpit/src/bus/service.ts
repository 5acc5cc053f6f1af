// The lock service as the page sees it: one method for each member that it calls.
// This and wire.ts are all that knows the bus; a new member gets a method here.
//
// One client reads ("try": with administrative access where the session has it),
// another changes ("require"). Both share the session's connections with every
// other page and tab, so this never calls Unsubscribe (another tab would go deaf)
// and never takes a lock.

import { kind } from "./errors";
import {
    Details,
    Dict,
    Info,
    Lock,
    Lockspace,
    NAME,
    Orphan,
    ROOT,
    Lost,
    Request,
    REQUEST,
    Waiter,
    detailsOf,
    lockOfRow,
    lockspaceOf,
    lostOf,
    orphanOf,
    requestOfProperties,
    values,
    waiterOfRow,
} from "./wire";

const TIMEOUT = 60_000;
const PAGE = 1000; // the service gives as many as it likes, and fewer where they are long
const LOST = 1000; // the service knows as many
const AT_ONCE = 8;
const REASON = 900; // bytes; the service takes 1,024, with the name of the user

/** The beginning of a text that has at most so many bytes. */
function cut(text: string, bytes: number): string {
    const encoder = new TextEncoder();
    let size = 0;
    let kept = "";
    for (const char of text) {
        size += encoder.encode(char).length;
        if (size > bytes) break;
        kept += char;
    }
    return kept;
}

export type Signal = { path: string; iface: string; member: string; args: unknown[] };

export interface LockFilter {
    state?: string;
    lockspace?: string;
    resource?: string;
    owner?: string;
}

export class Service {
    private readonly client: cockpit.DBusClient;
    private closed = false;

    constructor(onSignal: (signal: Signal) => void, onClose: (failure: cockpit.Failure) => void) {
        this.client = cockpit.dbus(NAME, { bus: "system", superuser: "try" });
        this.client.addEventListener("close", (_event, options) => {
            if (!this.closed) onClose(options);
        });
        this.client.subscribe({ path_namespace: ROOT }, (path, iface, member, args) => {
            if (!this.closed) onSignal({ path, iface, member, args });
        });
    }

    close(): void {
        this.closed = true;
        this.client.close();
    }

    private call(member: string, type: string, args: unknown[]): Promise<unknown[]> {
        return this.client.call(ROOT, NAME, member, args, { type, timeout: TIMEOUT });
    }

    async subscribe(): Promise<void> {
        await this.call("Subscribe", "", []);
    }

    async info(): Promise<Info> {
        const [all] = await this.client.call(ROOT, "org.freedesktop.DBus.Properties", "GetAll", [NAME], {
            type: "s",
            timeout: TIMEOUT,
        });
        return values(all as Dict) as unknown as Info;
    }

    /** One page of locks, after the one named. */
    async locks(after: string, filter: LockFilter = {}): Promise<Lock[]> {
        const arg: Dict = { limit: { t: "u", v: PAGE } };
        for (const [key, v] of Object.entries(filter)) arg[key] = { t: "s", v };
        if (after) arg["after"] = { t: "o", v: after };
        const [rows] = await this.call("ListLocks", "a{sv}", [arg]);
        return (rows as unknown[]).map(lockOfRow);
    }

    /** All pages of a filter, each given to the callback as it comes. */
    async eachPage(filter: LockFilter, page: (locks: Lock[]) => void, wanted: () => boolean): Promise<void> {
        for (let after = ""; wanted();) {
            const locks = await this.locks(after, filter);
            const last = locks.at(-1);
            if (!last || !wanted()) return;
            page(locks);
            after = last.path;
        }
    }

    /** Those that wait, the oldest first; at most so many and a page. */
    async waits(most: number): Promise<Waiter[]> {
        const waiters: Waiter[] = [];
        for (let after = ""; waiters.length < most;) {
            const arg: Dict = after ? { after: { t: "o", v: after } } : {};
            const [rows] = await this.call("ListWaits", "a{sv}", [arg]);
            const page = (rows as unknown[]).map(waiterOfRow);
            if (page.length === 0) break;
            waiters.push(...page);
            after = page.at(-1)!.path;
        }
        return waiters;
    }

    /** The locks that were lost lately, also of lockspaces that were left, the last one first. */
    async lost(): Promise<Lost[]> {
        const [rows] = await this.call("ListLost", "a{sv}", [{ limit: { t: "u", v: LOST } }]);
        return (rows as unknown[][]).map(lostOf);
    }

    async lockspaces(): Promise<Lockspace[]> {
        const [rows] = await this.call("ListLockspaces", "", []);
        return (rows as [string, string, number, number, Dict][]).map(row => lockspaceOf(...row));
    }

    async inspect(lockspace: string, resource: string): Promise<Details> {
        const [details] = await this.call("Inspect", "ss", [lockspace, resource]);
        return detailsOf(details as Dict);
    }

    async orphans(lockspace: string): Promise<Orphan[]> {
        const [rows] = await this.call("ListOrphans", "s", [lockspace]);
        return (rows as [number, string, string, Dict][]).map(orphanOf);
    }

    /** The Requests that wait; the service cuts a long list of objects, so these may not be all. */
    async requests(): Promise<Request[]> {
        const [objects] = await this.client.call(
            ROOT,
            "org.freedesktop.DBus.ObjectManager",
            "GetManagedObjects",
            [],
            { type: "", timeout: TIMEOUT },
        );
        return Object.entries(objects as Record<string, Record<string, Dict | undefined>>).flatMap(
            ([path, { [REQUEST]: properties }]) => (properties ? [requestOfProperties(path, properties)] : []),
        );
    }

    // What changes something goes over a client of its own: with administrative
    // access, or not at all.
    private async change(
        path: string,
        iface: string,
        member: string,
        type: string,
        args: unknown[],
        timeout = TIMEOUT,
    ): Promise<unknown[]> {
        const client = cockpit.dbus(NAME, { bus: "system", superuser: "require" });
        try {
            return await client.call(path, iface, member, args, { type, timeout });
        } finally {
            client.close();
        }
    }

    /**
     * Why, with the name of Cockpit's user: the service sees root, whoever it is, and
     * logs the reason beside it.
     */
    private async reason(why: string): Promise<Dict> {
        const user = await cockpit.user().then(
            ({ name }) => name,
            () => "",
        );
        const said = [cut(why.trim(), REASON), user && `Cockpit: ${user}`].filter(Boolean).join(" – ");
        return said ? { reason: { t: "s", v: said } } : {};
    }

    /** Path and token are named, so that another lock of that name can't be hit. */
    async release(lock: Lock, why: string): Promise<void> {
        const options: Dict = { lock: { t: "o", v: lock.path }, ...(await this.reason(why)) };
        if (lock.token > 0) options["token"] = { t: "t", v: lock.token };
        await this.change(ROOT, NAME, "Release", "ssa{sv}", [lock.lockspace, lock.resource, options]);
    }

    /** Releases exactly these. Those that have gone meanwhile are no error; any other stops it. */
    async releaseAll(locks: Lock[], why: string): Promise<void> {
        const left = [...locks];
        const worker = async () => {
            for (let lock = left.shift(); lock; lock = left.shift())
                await this.release(lock, why).catch((error: unknown) => {
                    if (kind(error) === "NotHeld") return;
                    left.length = 0;
                    throw error;
                });
        };
        await Promise.all(Array.from({ length: AT_ONCE }, worker));
    }

    async cancel(request: Request): Promise<void> {
        await this.change(request.path, REQUEST, "Cancel", "", []);
    }

    async purge(lockspace: string, orphans: Orphan[], why: string): Promise<number> {
        const ids = orphans.map(orphan => orphan.lockid);
        const options = await this.reason(why);
        const [purged] = await this.change(ROOT, NAME, "Purge", "saua{sv}", [lockspace, ids, options]);
        return Number(purged);
    }

    /** Resource and mode are named, so that a lockid that was used again is refused. */
    async adopt(lockspace: string, orphan: Orphan, owner: string, label: string): Promise<void> {
        const options: Dict = { resource: { t: "s", v: orphan.resource }, mode: { t: "s", v: orphan.mode } };
        if (owner) options["owner"] = { t: "s", v: owner };
        if (label) options["label"] = { t: "s", v: label };
        await this.change(ROOT, NAME, "AdoptOrphan", "sua{sv}", [lockspace, orphan.lockid, options]);
    }

    async join(lockspace: string): Promise<void> {
        await this.change(ROOT, NAME, "JoinLockspace", "sa{sv}", [lockspace, {}], 4 * TIMEOUT);
    }

    async leave(lockspace: string, force: boolean, why: string): Promise<void> {
        const options: Dict = { ...(force ? { force: { t: "b", v: true } } : {}), ...(await this.reason(why)) };
        await this.change(ROOT, NAME, "LeaveLockspace", "sa{sv}", [lockspace, options], 4 * TIMEOUT);
    }
}

/** Tells when the service comes to the bus or leaves it. */
export function watchOwner(changed: (present: boolean) => void): { close(): void } {
    const bus = cockpit.dbus("org.freedesktop.DBus", { bus: "system" });
    bus.subscribe(
        { interface: "org.freedesktop.DBus", member: "NameOwnerChanged", arg0: NAME },
        (_path, _iface, _member, args) => changed(args[2] !== ""),
    );
    return bus;
}

/** Starts the unit of the service. */
export async function startService(): Promise<void> {
    await cockpit.spawn(["systemctl", "start", "dlmlockd.service"], { superuser: "require", err: "message" });
}
