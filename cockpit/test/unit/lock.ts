// A lock for tests, each with a path of its own.
import type { Lock } from "../../src/bus/wire";

let next = 0;
export const lock = (fields: Partial<Lock>): Lock => ({
    path: `/lock/${++next}`,
    lockspace: "vms",
    resource: "disk1",
    lockid: next,
    mode: "EX",
    wanted: "",
    state: "held",
    token: 1,
    owner: "",
    label: "",
    lifetime: "persistent",
    uid: 0,
    pid: 1,
    since: 1e15 + next,
    ...fields,
});
