import assert from "node:assert/strict";
import { test } from "node:test";

import { detailsOf, lockOfRow } from "../../src/bus/wire";
import { kind } from "../../src/bus/errors";
import { chain, graphOf } from "../../src/model/chain";
import { Lines, entryOf, journalCommand } from "../../src/model/journal";
import { formatPlace, parsePlace } from "../../src/model/place";
import { format, pieces, plain } from "../../src/text";

const round = (path: string[], options: Record<string, string>) => formatPlace(parsePlace(path, options));

test("the address says where one is, and nothing where that is the default", () => {
    assert.deepEqual(round([], {}), { path: [], options: {} });
    const options = {
        "q": "a&b=c#d/é",
        "lockspace": "vms",
        "mode": "EX",
        "state": "held",
        "user": "107",
        "waiting": "1",
        "sort": "-resource",
        "page": "3",
        "per-page": "100",
        "in": "vms",
        "resource": "<b>&\u202e",
    };
    assert.deepEqual(round(["waiting"], options), { path: ["waiting"], options });
    assert.deepEqual(round(["no-such"], { "sort": "no-such", "page": "-3", "per-page": "7" }), {
        path: [],
        options: {},
    });
    assert.deepEqual(round([], { sort: "since" }), { path: [], options: { sort: "since" } });
});

test("characters that deceive are named, all others stay", () => {
    assert.equal(plain("disk\u202egpj.exe"), "disk[U+202E]gpj.exe");
    assert.equal(plain("a\u0000\u001b[31m\u007f\u009b"), "a[U+0000][U+001B][31m[U+007F][U+009B]");
    assert.equal(plain("\u200b\u2066\ufeff\u{e0041}\ud800"), "[U+200B][U+2066][U+FEFF][U+E0041][U+D800]");
    assert.equal(plain("<img src=x> שלום 🦆 é\u00a0x"), "<img src=x> שלום 🦆 é\u00a0x");
    assert.deepEqual(pieces(""), []);
});

test("values are put in place, also where a text has it twice", () => {
    assert.equal(format("$1 of $0, $1", "a", "$0"), "$0 of a, $0");
});

const party = (who: string, lockid: number, mode = "EX") => ({ node: 1, lockid, mode, who });

test("a queue is drawn as a chain, and what a longer way says is left out", () => {
    const [a, b, c] = [party("a", 1), party("b", 2), party("c", 3)];
    const waits = [
        { waiter: b, blocker: a },
        { waiter: c, blocker: a },
        { waiter: c, blocker: b },
    ];
    const graph = graphOf(waits);
    assert.deepEqual(
        graph.nodes.map(node => [node.party.who, node.column, node.row]),
        [
            ["a", 0, 0],
            ["b", 1, 0],
            ["c", 2, 0],
        ],
    );
    assert.deepEqual(graph.edges, [
        { from: "1/2", to: "1/1" },
        { from: "1/3", to: "1/2" },
    ]);
    assert.deepEqual(
        chain(waits).map(entry => entry.waiter.who + ":" + entry.behind.map(other => other.who)),
        ["b:a", "c:a,b"],
    );
    assert.deepEqual([graph.columns, graph.rows], [3, 1]);
});

test("a circle ends, and those without a lockid are told apart", () => {
    const [a, b] = [party("a", 1), party("b", 2)];
    const graph = graphOf([
        { waiter: a, blocker: b },
        { waiter: b, blocker: a },
    ]);
    assert.equal(graph.nodes.length, 2);
    assert.equal(
        graphOf([
            { waiter: party("x", 0), blocker: a },
            { waiter: party("y", 0), blocker: a },
        ]).nodes.length,
        3,
    );
    assert.deepEqual(graphOf([]), { nodes: [], edges: [], columns: 0, rows: 0 });
});

test("the journal's lines come in any pieces, and its fields in any form", () => {
    const lines = new Lines();
    assert.deepEqual(lines.take('{"a":1}\n{"b"'), ['{"a":1}']);
    assert.deepEqual(lines.take(":2}\n\n"), ['{"b":2}']);
    const entry = entryOf(
        JSON.stringify({
            __CURSOR: "c",
            __REALTIME_TIMESTAMP: "17",
            PRIORITY: "3",
            MESSAGE: [104, 105],
            DLM_RESOURCE: ["x", "y"],
            MESSAGE_ID: "2f2fea20ee4043e2b85455e2a5854cec",
            DLM_OWNER: null,
        }),
    );
    assert.deepEqual(entry, {
        cursor: "c",
        time: 17,
        priority: 3,
        message: "hi",
        lockspace: "",
        resource: "x",
        mode: "",
        owner: "",
        lost: true,
    });
    assert.equal(entryOf("not json"), null);
    assert.ok(journalCommand({ lockspace: "v", name: "-x y" }, true).includes("DLM_RESOURCE=-x y"));
});

test("errors are told by their names", () => {
    assert.equal(kind({ name: "org.example.DlmLock.Error.LockspaceInUse", message: "m" }), "LockspaceInUse");
    assert.equal(kind({ name: "org.freedesktop.DBus.Error.AccessDenied", problem: null }), "AccessDenied");
    assert.equal(kind({ problem: "not-found" }), "not-found");
    assert.equal(kind(new Error("x")), "Error");
});

test("rows and dictionaries of the bus", () => {
    const row = ["/l", "vms", "d", 7, "EX", "", "held", 1.7e15, "o", "l", "persistent", 0, 12, 1.8e15];
    assert.equal(lockOfRow(row).token, 1.7e15);
    const details = detailsOf({
        value: { t: "ay", v: btoa("\x00\xff") },
        waits: { t: "", v: [[1, 2, "EX", "a", 1, 3, "PR", "b"]] },
        missing: { t: "as", v: ["m"] },
        holder: { t: "", v: [2, "EX", 9, "h"] },
    });
    assert.deepEqual([...details.value!], [0, 255]);
    assert.equal(details.waits[0]?.blocker.who, "b");
    assert.deepEqual(details.holder, { node: 2, mode: "EX", token: 9, who: "h" });
    assert.equal(detailsOf({}).value, null);
    assert.equal(detailsOf({}).complete, null);
});
