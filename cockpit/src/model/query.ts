// Which locks are shown, in which order, and which page of them: pure functions
// over the list, fast enough for each key that is pressed.

import type { Lock } from "../bus/wire";

export const columns = ["resource", "lockspace", "mode", "state", "owner", "uid", "lifetime", "since"] as const;
export type Column = (typeof columns)[number];

export const MODES = ["NL", "CR", "CW", "PR", "PW", "EX"];
export const STATES = ["acquiring", "held", "converting", "releasing"];

export interface Query {
    text: string;
    lockspace: string;
    mode: string;
    state: string;
    uid: string;
    waiting: boolean;
    sort: Column;
    descending: boolean;
    page: number; // from 0
    perPage: number;
}

export const SIZES = [50, 100];

export const noQuery: Query = {
    text: "",
    lockspace: "",
    mode: "",
    state: "",
    uid: "",
    waiting: false,
    sort: "since",
    descending: true,
    page: 0,
    perPage: 50,
};

export const waits = (lock: Lock): boolean => lock.state === "acquiring" || lock.state === "converting";

const haystacks = new WeakMap<Lock, string>();

function haystack(lock: Lock): string {
    let text = haystacks.get(lock);
    if (text === undefined) {
        text = [lock.resource, lock.owner, lock.label, lock.lockspace].join("\n").toLowerCase();
        haystacks.set(lock, text);
    }
    return text;
}

/** Numbers in names sort as numbers: disk2 before disk10. */
export const natural = (text: string): string =>
    text.toLowerCase().replace(/\d+/g, digits => digits.replace(/^0+(?=\d)/, "").padStart(16, "0"));

const naturals = new WeakMap<Lock, Map<Column, string>>();

function naturalOf(lock: Lock, column: "resource" | "lockspace" | "owner"): string {
    let keys = naturals.get(lock);
    if (!keys) naturals.set(lock, (keys = new Map()));
    let key = keys.get(column);
    if (key === undefined) {
        const text = column === "owner" ? lock.owner + "\n" + lock.label : lock[column];
        keys.set(column, (key = natural(text)));
    }
    return key;
}

/** The key of a lock in a column; the same type for all locks. */
function key(lock: Lock, column: Column): string | number {
    switch (column) {
        case "resource":
        case "lockspace":
        case "owner":
            return naturalOf(lock, column);
        case "mode":
            return MODES.indexOf(lock.mode) * 8 + MODES.indexOf(lock.wanted);
        case "state":
            return STATES.indexOf(lock.state);
        case "since":
            return lock.since === 0 ? Infinity : lock.since;
        default:
            return lock[column];
    }
}

export function filtered(locks: Lock[], query: Query): Lock[] {
    const text = query.text.trim().toLowerCase();
    return locks.filter(
        lock =>
            (!query.lockspace || lock.lockspace === query.lockspace) &&
            (!query.mode || lock.mode === query.mode || lock.wanted === query.mode) &&
            (!query.state || lock.state === query.state) &&
            (!query.uid || String(lock.uid) === query.uid) &&
            (!query.waiting || waits(lock)) &&
            (!text || haystack(lock).includes(text)),
    );
}

/** Sorts by a column; equal ones stay in the order of their grants. */
export function sorted(locks: Lock[], column: Column, descending: boolean): Lock[] {
    const keyed = locks.map((lock, index) => ({ lock, index, key: key(lock, column) }));
    const sign = descending ? -1 : 1;
    keyed.sort((a, b) => (a.key < b.key ? -sign : a.key > b.key ? sign : a.index - b.index));
    return keyed.map(entry => entry.lock);
}

export interface View {
    rows: Lock[];
    matches: number;
    page: number;
    pages: number;
}

/** The rows of the page asked for, or of the last one where there are fewer. */
export function pageOf(matching: Lock[], query: Query): View {
    const pages = Math.max(1, Math.ceil(matching.length / query.perPage));
    const page = Math.min(query.page, pages - 1);
    const from = page * query.perPage;
    return { rows: matching.slice(from, from + query.perPage), matches: matching.length, page, pages };
}

export const hasFilter = (query: Query): boolean =>
    Boolean(query.text.trim() || query.lockspace || query.mode || query.state || query.uid || query.waiting);
