// The locks of the service as this page knows them, kept true by signals.
//
// Signals may come in thousands at once, and while the pages of the first listing
// still arrive. So they are put in a list, applied together, and the view is told
// once. The path of a lock is never used again: what has gone while the listing
// was under way stays gone, whatever a page of it says.

import { Dict, LOCK, Lock, lockChange, lockOfProperties } from "../bus/wire";

export type Change =
    | { kind: "added"; lock: Lock }
    | { kind: "removed"; path: string }
    | { kind: "changed"; path: string; change: Partial<Lock> };

export class Locks {
    private readonly byPath = new Map<string, Lock>();
    private pending: Change[] = [];
    private gone: Set<string> | null = new Set();
    private asList: Lock[] | null = null;
    version = 0;

    get size(): number {
        return this.byPath.size;
    }

    get hasPending(): boolean {
        return this.pending.length > 0;
    }

    get(path: string): Lock | undefined {
        return this.byPath.get(path);
    }

    all(): Lock[] {
        return (this.asList ??= [...this.byPath.values()]);
    }

    private touched(): void {
        this.asList = null;
        this.version++;
    }

    /** Takes a page of the first listing. */
    addPage(page: Lock[]): void {
        for (const lock of page)
            if (!this.gone?.has(lock.path) && !this.byPath.has(lock.path)) this.byPath.set(lock.path, lock);
        this.touched();
    }

    /** The listing is complete; nothing older than the signals comes any more. */
    listed(): void {
        this.gone = null;
    }

    put(change: Change): void {
        this.pending.push(change);
    }

    /** Applies what has been put since; says whether anything is another now. */
    apply(): boolean {
        const changes = this.pending;
        this.pending = [];
        let any = false;
        for (const change of changes) any = this.applyOne(change) || any;
        if (any) this.touched();
        return any;
    }

    private applyOne(change: Change): boolean {
        switch (change.kind) {
            case "added":
                this.byPath.set(change.lock.path, change.lock);
                return true;
            case "removed":
                this.gone?.add(change.path);
                return this.byPath.delete(change.path);
            case "changed": {
                const lock = this.byPath.get(change.path);
                if (lock) this.byPath.set(change.path, { ...lock, ...change.change });
                return lock !== undefined;
            }
        }
    }

    /**
     * Those that wait for their first grant have no signals: they come as a whole
     * from a listing of their own. Says whether anything is another now.
     */
    setAcquiring(waiting: Lock[]): boolean {
        const now = new Set(waiting.map(lock => lock.path));
        let any = false;
        for (const lock of this.byPath.values())
            if (lock.state === "acquiring" && !now.has(lock.path)) any = this.byPath.delete(lock.path) || any;
        for (const lock of waiting)
            if (!this.byPath.has(lock.path)) {
                this.byPath.set(lock.path, lock);
                any = true;
            }
        if (any) this.touched();
        return any;
    }
}

/** What a signal says of locks; null if it is about something else. */
export function lockSignal(path: string, member: string, args: unknown[]): Change | null {
    switch (member) {
        case "InterfacesAdded": {
            const [object, interfaces] = args as [string, Record<string, Dict | undefined>];
            const properties = interfaces[LOCK];
            return properties ? { kind: "added", lock: lockOfProperties(object, properties) } : null;
        }
        case "InterfacesRemoved": {
            const [object, interfaces] = args as [string, string[]];
            return interfaces.includes(LOCK) ? { kind: "removed", path: object } : null;
        }
        case "PropertiesChanged": {
            const [iface, changed] = args as [string, Dict];
            return iface === LOCK ? { kind: "changed", path, change: lockChange(changed) } : null;
        }
    }
    return null;
}
