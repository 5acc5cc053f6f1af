// Everything that the page knows, and how it stays true: connects, subscribes,
// lists, follows signals, and begins anew when the service has gone and come back.

import { kind, words } from "../bus/errors";
import { Service, Signal, watchOwner } from "../bus/service";
import {
    Dict,
    Info,
    Lockspace,
    LOCKSPACE,
    NAME,
    REQUEST,
    Request,
    ROOT,
    requestOfProperties,
    values,
} from "../bus/wire";
import { Locks, lockSignal } from "./locks";
import { LostLocks } from "./lost";
import { Pace } from "./pace";

/**
 * absent: nobody has the name on the bus; denied: this user may not look;
 * failed: anything else. In each of them "problem" says why.
 */
export type Phase = "connecting" | "loading" | "ready" | "absent" | "denied" | "failed";

const DRAW = 200; // ms between two drawings under a flood
const WAITERS = 2000; // ms between two looks at what has no signals
const AGAIN = 3000;

export class Store {
    phase: Phase = "connecting";
    problem = "";
    info: Info | null = null;
    locks = new Locks();
    lockspaces: Lockspace[] | null = null;
    requests = new Map<string, Request>();
    subscribed = true;
    admin: boolean | null = null;
    reader = 0; // another number where the reading side may be another user than before
    readonly lost: LostLocks;
    service: Service | null = null;

    private readonly listeners = new Set<() => void>();
    private readonly draw = new Pace(() => this.flush(), DRAW);
    private readonly look = new Pace(() => {
        void this.loadLockspaces();
        const { service } = this; // with a lockspace those that wait in it come and go
        if (service && this.phase === "ready") void this.loadWaiters(service, () => service === this.service);
    }, 500);
    private readonly permission = cockpit.permission({ admin: true });
    private waiters: number | undefined;
    private again: number | undefined;
    private round = 0;

    constructor() {
        this.lost = new LostLocks(localStorage, cockpit.transport.host, () => this.changed());
        this.permission.addEventListener("changed", () => this.permitted());
        this.admin = this.permission.allowed;
        watchOwner(present => (present ? this.connect() : this.gone({ problem: "not-found" })));
        this.connect();
    }

    listen(listener: () => void): () => void {
        this.listeners.add(listener);
        return () => this.listeners.delete(listener);
    }

    /** Something other than the locks is another now; views are told soon. */
    changed(): void {
        this.draw.ask();
    }

    private flush(): void {
        this.incoming.apply();
        if (this.incoming !== this.locks) this.locks.apply();
        for (const listener of this.listeners) listener();
    }

    private permitted(): void {
        const before = this.admin;
        this.admin = this.permission.allowed;
        if (before !== null && before !== this.admin) {
            this.reader++;
            this.connect();
        }
        this.changed();
    }

    /** Begins anew. What is shown stays until the new is there. */
    connect(): void {
        const round = ++this.round;
        this.stop();
        if (this.phase !== "ready") this.phase = "connecting";
        const service = new Service(
            signal => {
                if (round === this.round) this.signal(signal);
            },
            failure => {
                if (round === this.round) this.gone(failure);
            },
        );
        this.service = service;
        this.load(service, () => round === this.round).catch(error => {
            if (round === this.round) this.gone(error as cockpit.Failure);
        });
        this.changed();
    }

    private stop(): void {
        clearInterval(this.waiters);
        clearTimeout(this.again);
        this.service?.close();
        this.service = null;
    }

    private gone(failure: cockpit.Failure): void {
        this.round++;
        this.stop();
        this.info = null;
        this.problem = words(failure);
        const why = kind(failure);
        if (why === "not-found" || why === "ServiceUnknown" || why === "NameHasNoOwner" || why === "NoReply")
            this.phase = "absent";
        else if (why === "AccessDenied" || why === "access-denied") this.phase = "denied";
        else {
            this.phase = "failed";
            this.again = window.setTimeout(() => this.connect(), AGAIN);
        }
        this.changed();
    }

    private async load(service: Service, current: () => boolean): Promise<void> {
        const locks = new Locks();
        const old = this.locks;
        if (old.size === 0) this.locks = locks;
        this.incoming = locks;
        this.requests.clear();
        this.lostListed = null;
        await Promise.all([this.loadInfo(service, current), this.subscribe(service)]);
        if (!current()) return;
        if (this.phase !== "ready") this.phase = "loading";
        void this.loadLockspaces();
        await service.eachPage(
            {},
            page => {
                locks.addPage(page);
                if (this.locks !== locks && locks.size >= old.size) this.locks = locks;
                this.changed();
            },
            current,
        );
        if (!current()) return;
        locks.listed();
        this.locks = locks;
        this.phase = "ready";
        this.waiters = window.setInterval(() => void this.loadWaiters(service, current), WAITERS);
        await this.loadWaiters(service, current);
        if (this.info?.WaitingCount) await this.loadRequests(service, current);
        this.changed();
    }

    /** Those that came before the subscription; only a Request can be canceled. */
    private async loadRequests(service: Service, current: () => boolean): Promise<void> {
        try {
            const requests = await service.requests();
            if (current())
                for (const request of requests)
                    if (!this.requests.has(request.path)) this.requests.set(request.path, request);
        } catch {
            // Then they can't be canceled here.
        }
    }

    private incoming = this.locks;

    private async loadInfo(service: Service, current: () => boolean): Promise<void> {
        const info = await service.info();
        if (current()) {
            this.info = info;
            this.lost.countedAnew(info.LocksLost);
            if (info.LocksLost !== this.lostListed) void this.loadLost(service, info.LocksLost);
            this.changed();
        }
    }

    /** Without a subscription the page still lists, and says that it does not follow. */
    private async subscribe(service: Service): Promise<void> {
        try {
            await service.subscribe();
            this.subscribed = true;
        } catch (error) {
            if (kind(error) !== "LimitExceeded") throw error;
            this.subscribed = false;
        }
    }

    async loadLockspaces(): Promise<void> {
        const service = this.service;
        if (!service) return;
        try {
            const lockspaces = await service.lockspaces();
            if (service === this.service) {
                this.lockspaces = lockspaces;
                this.changed();
            }
        } catch {
            // The next signal or the next connection looks again.
        }
    }

    private async loadWaiters(service: Service, current: () => boolean): Promise<void> {
        if (document.hidden) return;
        try {
            const waiting: Parameters<Locks["setAcquiring"]>[0] = [];
            await service.eachPage({ state: "acquiring" }, page => waiting.push(...page), current);
            if (!current()) return;
            if (this.locks.setAcquiring(waiting)) this.changed();
            if (!this.subscribed || this.info) await this.loadInfo(service, current);
        } catch {
            // Asked again in two seconds; a service that has gone is told otherwise.
        }
    }

    private signal({ path, iface, member, args }: Signal): void {
        if (iface === NAME) {
            this.rootSignal(member);
            return;
        }
        const change = lockSignal(path, member, args);
        if (change) {
            this.incoming.put(change);
            this.changed();
        } else if (path === ROOT && member === "PropertiesChanged" && args[0] === NAME) {
            if (this.info) this.info = { ...this.info, ...values(args[1] as Dict) };
            this.changed();
        } else {
            this.otherObject(path, member, args);
        }
    }

    private rootSignal(member: string): void {
        if (member === "SubscriptionLost") this.connect();
        else if (member === "LockspaceChanged") this.look.ask();
        else if (member === "LockLost" && this.service) void this.loadLost(this.service, null);
    }

    private otherObject(path: string, member: string, args: unknown[]): void {
        if (member === "InterfacesAdded") {
            const [object, interfaces] = args as [string, Record<string, Dict | undefined>];
            const request = interfaces[REQUEST];
            if (request) this.requests.set(object, requestOfProperties(object, request));
            if (interfaces[LOCKSPACE]) this.look.ask();
        } else if (member === "InterfacesRemoved") {
            this.requests.delete(args[0] as string);
            if ((args[1] as string[]).includes(LOCKSPACE)) this.look.ask();
        } else if (member === "PropertiesChanged" && args[0] === LOCKSPACE) {
            this.look.ask();
        } else if (member === "PropertiesChanged" && args[0] === REQUEST) {
            const request = this.requests.get(path);
            const state = (args[1] as Dict)["State"]?.v;
            if (request && state) this.requests.set(path, { ...request, state: String(state) });
        }
        this.changed();
    }

    private lostListed: number | null = null; // the counter when the list was asked for last

    /** What was lost, with its owner: the signal does not name it, and only root gets the signal. */
    private async loadLost(service: Service, counter: number | null): Promise<void> {
        this.lostListed = counter;
        try {
            const lost = await service.lost();
            if (service === this.service) this.lost.listed(lost);
        } catch {
            this.lostListed = null; // asked again with the next look at the counter
        }
    }
}
