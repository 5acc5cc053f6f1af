// How the bus's structures look in JavaScript, and what the page makes of them.
// Nothing else knows the order of their fields.

export const NAME = "org.example.DlmLock";
export const ROOT = "/org/example/DlmLock";
export const LOCK = NAME + ".Lock";
export const REQUEST = NAME + ".Request";
export const LOCKSPACE = NAME + ".Lockspace";

export type State = "acquiring" | "held" | "converting" | "releasing";

export interface Lock {
    path: string;
    lockspace: string;
    resource: string;
    lockid: number;
    mode: string;
    wanted: string;
    state: string;
    token: number;
    owner: string;
    label: string;
    lifetime: string;
    uid: number;
    pid: number;
    since: number; // microseconds since 1970; 0 while it waits
    waiting: number; // since when it stands in a queue; 0: it does not, or a signal told of it
}

/** A lock of this service that stands in a queue, and what it waits for. */
export interface Waiter {
    path: string;
    lockspace: string;
    resource: string;
    mode: string; // that it holds meanwhile, or ""
    wanted: string;
    since: number;
    who: string;
    behind: Party[];
    owner: string;
    label: string;
    uid: number;
    pid: number;
    master: number; // 0: not known
    missing: string;
}

export interface Request {
    path: string;
    lockspace: string;
    resource: string;
    mode: string;
    owner: string;
    label: string;
    uid: number;
    since: number;
    state: string;
}

export interface Lockspace {
    name: string;
    state: string;
    locks: number;
    orphans: number; // -1: it can't be told
    error: string;
    rawValues: boolean;
    stopped: boolean | null; // null: not known
    quorate: boolean | null;
    reason: string;
    members: number[] | null;
    recovery: number | null;
}

export interface Orphan {
    lockid: number;
    resource: string;
    mode: string;
    token: number; // 0: there is none, or it can't be read
    who: string; // the first bytes of its label or owner, or ""
}

/** One place in a queue of the lock manager. */
export interface Queued {
    lockid: number;
    node: number;
    mode: string;
    wanted: string;
}

/** One end of "A waits for B". */
export interface Party {
    node: number;
    lockid: number;
    mode: string;
    who: string;
}

export interface Wait {
    waiter: Party;
    blocker: Party;
}

export interface Lost {
    path: string;
    lockspace: string;
    resource: string;
    mode: string;
    owner: string;
    label: string;
    when: number;
    reason: string;
}

export interface Details {
    locks: Lock[];
    lost: Lost[];
    granted: Queued[];
    converting: Queued[];
    waiting: Queued[];
    waits: Wait[];
    master: number;
    complete: boolean | null;
    value: Uint8Array | null;
    valueInvalid: boolean;
    holder: { node: number; mode: string; token: number; who: string } | null;
    stopped: boolean | null;
    reason: string;
    members: number[] | null;
    missing: string[];
}

/** The properties of the root object that the page shows. */
export interface Info {
    Version: string;
    Engine: string;
    NodeID: number;
    NodeName: string;
    Nodes?: Record<string, string>; // names by numbers
    ClusterName: string;
    QuorumState: string;
    LockCount: number;
    WaitingCount: number;
    LockspaceCount: number;
    Degraded: string;
    LocksLost: number;
}

export type Dict = Record<string, cockpit.Variant | undefined>;

const text = (d: Dict, key: string): string => String(d[key]?.v ?? "");
const number = (d: Dict, key: string): number => Number(d[key]?.v ?? 0);
const flag = (d: Dict, key: string): boolean | null => {
    const value = d[key]?.v;
    return value === undefined ? null : Boolean(value);
};
const list = (d: Dict, key: string): unknown[][] => (d[key]?.v ?? []) as unknown[][];
const numbersOf = (d: Dict, key: string): number[] | null => (d[key]?.v as number[] | undefined) ?? null;

/** Plain values of a dictionary of variants. */
export function values(d: Dict): Record<string, unknown> {
    return Object.fromEntries(Object.entries(d).map(([key, variant]) => [key, variant?.v]));
}

type Row = [
    string,
    string,
    string,
    number,
    string,
    string,
    string,
    number,
    string,
    string,
    string,
    number,
    number,
    number,
    Dict?,
];

export function lockOfRow(row: unknown): Lock {
    const [path, lockspace, resource, lockid, mode, wanted, state, token, owner, label, lifetime, uid, pid, since, d] =
        row as Row;
    return {
        path,
        lockspace,
        resource,
        lockid,
        mode,
        wanted,
        state,
        token,
        owner,
        label,
        lifetime,
        uid,
        pid,
        since,
        waiting: d ? number(d, "waiting-since") : 0,
    };
}

export function waiterOfRow(row: unknown): Waiter {
    const [path, lockspace, resource, mode, wanted, since, who, behind, d] = row as [
        string,
        string,
        string,
        string,
        string,
        number,
        string,
        [number, number, string, string, Dict][],
        Dict,
    ];
    return {
        path,
        lockspace,
        resource,
        mode,
        wanted,
        since,
        who,
        behind: behind.map(([node, lockid, mode, who]) => ({ node, lockid, mode, who })),
        owner: text(d, "owner"),
        label: text(d, "label"),
        uid: number(d, "uid"),
        pid: number(d, "pid"),
        master: number(d, "master"),
        missing: text(d, "missing"),
    };
}

export function lockOfProperties(path: string, d: Dict): Lock {
    return {
        path,
        lockspace: text(d, "Lockspace"),
        resource: text(d, "Resource"),
        lockid: number(d, "LockID"),
        mode: text(d, "Mode"),
        wanted: text(d, "Wanted"),
        state: text(d, "State"),
        token: number(d, "Token"),
        owner: text(d, "Owner"),
        label: text(d, "Label"),
        lifetime: text(d, "Lifetime"),
        uid: number(d, "UID"),
        pid: number(d, "PID"),
        since: number(d, "Since"),
        waiting: 0,
    };
}

/** What a PropertiesChanged says of a lock. */
export function lockChange(d: Dict): Partial<Lock> {
    const change: Partial<Lock> = {};
    if (d["Mode"]) change.mode = text(d, "Mode");
    if (d["Wanted"]) change.wanted = text(d, "Wanted");
    if (d["State"]) change.state = text(d, "State");
    if (d["Token"]) change.token = number(d, "Token");
    return change;
}

export function requestOfProperties(path: string, d: Dict): Request {
    return {
        path,
        lockspace: text(d, "Lockspace"),
        resource: text(d, "Resource"),
        mode: text(d, "Mode"),
        owner: text(d, "Owner"),
        label: text(d, "Label"),
        uid: number(d, "UID"),
        since: number(d, "Since"),
        state: text(d, "State"),
    };
}

export function orphanOf([lockid, resource, mode, details]: [number, string, string, Dict]): Orphan {
    return { lockid, resource, mode, token: number(details, "token"), who: text(details, "who") };
}

export function lockspaceOf(name: string, state: string, locks: number, orphans: number, d: Dict): Lockspace {
    return {
        name,
        state,
        locks,
        orphans,
        error: text(d, "error"),
        rawValues: flag(d, "raw-values") ?? false,
        stopped: flag(d, "stopped"),
        quorate: flag(d, "quorate"),
        reason: text(d, "reason"),
        members: numbersOf(d, "members"),
        recovery: d["recovery"] ? number(d, "recovery") : null,
    };
}

const queued = (row: unknown[]): Queued => {
    const [lockid, node, mode, wanted] = row as [number, number, string, string];
    return { lockid, node, mode, wanted };
};

function waitOf(row: unknown[]): Wait {
    const [node, lockid, mode, who, node2, lockid2, mode2, who2] = row as [
        number,
        number,
        string,
        string,
        number,
        number,
        string,
        string,
    ];
    return {
        waiter: { node, lockid, mode, who },
        blocker: { node: node2, lockid: lockid2, mode: mode2, who: who2 },
    };
}

export function lostOf(row: unknown[]): Lost {
    const [path, lockspace, resource, , mode, owner, label, when, reason] = row as [
        string,
        string,
        string,
        number,
        string,
        string,
        string,
        number,
        string,
    ];
    return { path, lockspace, resource, mode, owner, label, when, reason };
}

/** An "ay" comes as base64. */
function bytes(d: Dict, key: string): Uint8Array | null {
    const value = d[key]?.v;
    if (value === undefined) return null;
    if (Array.isArray(value)) return Uint8Array.from(value as number[]);
    return Uint8Array.from(atob(String(value)), char => char.charCodeAt(0));
}

function holderOf(d: Dict): Details["holder"] {
    const value = d["holder"]?.v as [number, string, number, string] | undefined;
    return value ? { node: value[0], mode: value[1], token: value[2], who: value[3] } : null;
}

export function detailsOf(d: Dict): Details {
    return {
        locks: list(d, "locks").map(lockOfRow),
        lost: list(d, "lost").map(lostOf),
        granted: list(d, "granted").map(queued),
        converting: list(d, "converting").map(queued),
        waiting: list(d, "waiting").map(queued),
        waits: list(d, "waits").map(waitOf),
        master: number(d, "master"),
        complete: flag(d, "complete"),
        value: bytes(d, "value"),
        valueInvalid: flag(d, "value-invalid") ?? false,
        holder: holderOf(d),
        stopped: flag(d, "stopped"),
        reason: text(d, "reason"),
        members: numbersOf(d, "members"),
        missing: (d["missing"]?.v ?? []) as string[],
    };
}
