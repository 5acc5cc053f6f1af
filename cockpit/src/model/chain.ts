// Who waits for whom, put in order: for the list and for the drawing.

import type { Party, Wait } from "../bus/wire";

export interface Node {
    id: string;
    party: Party;
    column: number; // 0 holds; each further one waits for one before it
    row: number;
}

export interface Graph {
    nodes: Node[];
    edges: { from: string; to: string }[];
    columns: number;
    rows: number;
}

/** Lockids are of one node; where there is none, who and mode tell them apart. */
export const idOf = (party: Party): string =>
    party.lockid ? `${party.node}/${party.lockid}` : `${party.node}/${party.mode}/${party.who}`;

function depths(waits: Wait[]): Map<string, number> {
    const depth = new Map<string, number>();
    for (const wait of waits) for (const party of [wait.waiter, wait.blocker]) depth.set(idOf(party), 0);
    // A circle (a deadlock that was not yet broken) would go on for ever.
    for (let round = 0, changed = true; changed && round < depth.size; round++) {
        changed = false;
        for (const { waiter, blocker } of waits) {
            const behind = depth.get(idOf(blocker))! + 1;
            if (depth.get(idOf(waiter))! < behind && behind < depth.size) {
                depth.set(idOf(waiter), behind);
                changed = true;
            }
        }
    }
    return depth;
}

/**
 * The graph in columns. Someone third in the queue waits for the holder and for
 * the second; an edge that a longer way makes superfluous is left out.
 */
export function graphOf(waits: Wait[]): Graph {
    const depth = depths(waits);
    const parties = new Map<string, Party>();
    for (const { waiter, blocker } of waits)
        for (const party of [blocker, waiter]) if (!parties.has(idOf(party))) parties.set(idOf(party), party);
    const used: number[] = [];
    const nodes: Node[] = [];
    for (const [id, party] of parties) {
        const column = depth.get(id)!;
        const row = used[column] ?? 0;
        used[column] = row + 1;
        nodes.push({ id, party, column, row });
    }
    return { nodes, edges: edgesOf(waits, depth), columns: used.length, rows: Math.max(0, ...used.map(n => n ?? 0)) };
}

function edgesOf(waits: Wait[], depth: Map<string, number>): Graph["edges"] {
    const edges = new Map<string, { from: string; to: string }>();
    for (const { waiter, blocker } of waits) {
        const from = idOf(waiter);
        const to = idOf(blocker);
        const near = waits.some(
            other => idOf(other.waiter) === from && depth.get(idOf(other.blocker))! > depth.get(to)!,
        );
        if (!near) edges.set(from + " " + to, { from, to });
    }
    return [...edges.values()];
}

/** The waiters in the order of the queue, each with those in its way. */
export function chain(waits: Wait[]): { waiter: Party; behind: Party[] }[] {
    const depth = depths(waits);
    const out = new Map<string, { waiter: Party; behind: Party[] }>();
    for (const { waiter, blocker } of waits) {
        const entry = out.get(idOf(waiter)) ?? { waiter, behind: [] };
        if (!entry.behind.some(party => idOf(party) === idOf(blocker))) entry.behind.push(blocker);
        out.set(idOf(waiter), entry);
    }
    return [...out.values()].sort((a, b) => depth.get(idOf(a.waiter))! - depth.get(idOf(b.waiter))!);
}
