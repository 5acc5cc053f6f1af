// Lost locks stay on the page until somebody has said that they have seen them:
// also over a reload, and in every tab of this browser.

import type { Lost } from "../bus/wire";

const MOST = 200;

interface Memory {
    lost: Lost[];
    counted: number; // how many losses of the service's counter are dismissed
}

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
                return { lost: memory.lost, counted: Number(memory.counted) || 0 };
        } catch {
            // What can't be read is as if nothing had been kept.
        }
        return { lost: [], counted: 0 };
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

    /** How many were lost that this browser has not been told of one by one. */
    untold(counter: number): number {
        return Math.max(0, counter - this.memory.counted - this.memory.lost.length);
    }

    add(lost: Lost): void {
        this.memory = this.read();
        const others = this.memory.lost.filter(other => other.path !== lost.path);
        const before = this.memory.lost.find(other => other.path === lost.path);
        this.memory.lost = [{ ...before, ...lost, owner: lost.owner || before?.owner || "" }, ...others].slice(
            0,
            MOST,
        );
        this.write();
    }

    dismiss(counter: number): void {
        // The counter may be a second behind what the signals have told.
        const told = this.memory.counted + this.memory.lost.length;
        this.memory = { lost: [], counted: Math.max(counter, told) };
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
