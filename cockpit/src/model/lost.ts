// Lost locks stay on the page until somebody has said that they have seen them:
// also over a reload, and in every tab of this browser.

import type { Lost } from "../bus/wire";

const MOST = 1000; // the service lists as many

interface Memory {
    lost: Lost[];
    counted: number; // how many losses of the service's counter are dismissed
    until: number; // when the last of those that are dismissed was lost
}

/** The service numbers its locks anew after a boot, so the path alone does not tell two losses apart. */
const idOf = (lost: Lost): string => `${lost.path} ${lost.when}`;

export class LostLocks {
    private readonly key: string;
    private memory: Memory;

    constructor(
        private readonly storage: Storage,
        host: string,
        private readonly changed: () => void,
    ) {
        this.key = `dlmlock:lost:${host}`;
        this.memory = this.read();
        window.addEventListener("storage", event => {
            if (event.key === this.key) {
                this.memory = this.read();
                this.changed();
            }
        });
    }

    private read(): Memory {
        try {
            const memory = JSON.parse(this.storage.getItem(this.key) ?? "null") as Memory | null;
            if (memory && Array.isArray(memory.lost))
                return {
                    lost: memory.lost,
                    counted: Number(memory.counted) || 0,
                    until: Number(memory.until) || 0,
                };
        } catch {
            // What can't be read is as if nothing had been kept.
        }
        return { lost: [], counted: 0, until: 0 };
    }

    private write(): void {
        try {
            this.storage.setItem(this.key, JSON.stringify(this.memory));
        } catch {
            // No room: this tab still knows.
        }
        this.changed();
    }

    all(): Lost[] {
        return this.memory.lost;
    }

    /** How many were lost that the service can't list any more. */
    untold(counter: number): number {
        return Math.max(0, counter - this.memory.counted - this.memory.lost.length);
    }

    /** Takes the service's list; what was dismissed stays away. */
    listed(lost: Lost[]): void {
        this.memory = this.read();
        const known = new Set(this.memory.lost.map(idOf));
        const fresh = lost.filter(one => one.when > this.memory.until && !known.has(idOf(one)));
        if (fresh.length === 0) return;
        this.memory.lost = [...fresh, ...this.memory.lost].slice(0, MOST);
        this.write();
    }

    dismiss(counter: number): void {
        // The counter may be a second behind what the list has told.
        const { counted, lost, until } = this.memory;
        this.memory = {
            lost: [],
            counted: Math.max(counter, counted + lost.length),
            until: Math.max(until, ...lost.map(one => one.when)),
        };
        this.write();
    }

    /** The service counts from 0 after a restart. */
    countedAnew(counter: number): void {
        if (counter < this.memory.counted) {
            this.memory.counted = 0;
            this.write();
        }
    }
}
