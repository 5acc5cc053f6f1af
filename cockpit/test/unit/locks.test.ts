import assert from "node:assert/strict";
import { test } from "node:test";

import { LOCK } from "../../src/bus/wire";
import { Locks, lockSignal } from "../../src/model/locks";
import { Pace } from "../../src/model/pace";
import { lock } from "./lock";

const paths = (locks: Locks) =>
    locks
        .all()
        .map(one => one.path)
        .sort()
        .join(" ");

test("what has gone while the listing was under way stays gone", () => {
    const locks = new Locks();
    const [a, b] = [lock({ path: "/a" }), lock({ path: "/b" })];
    locks.put({ kind: "removed", path: "/a" });
    locks.apply();
    locks.addPage([a, b]); // the page is older than the signal
    assert.equal(paths(locks), "/b");
    locks.listed();
});

test("a signal that waits to be applied counts against a page that came before it", () => {
    const locks = new Locks();
    locks.put({ kind: "removed", path: "/a" });
    locks.addPage([lock({ path: "/a" })]);
    locks.apply();
    assert.equal(paths(locks), "");
});

test("a page does not undo a change that a signal has told", () => {
    const locks = new Locks();
    locks.put({ kind: "added", lock: lock({ path: "/a", mode: "EX" }) });
    locks.put({ kind: "changed", path: "/a", change: { mode: "PR" } });
    locks.apply();
    locks.addPage([lock({ path: "/a", mode: "EX" })]);
    assert.equal(locks.get("/a")?.mode, "PR");
});

test("thousands of changes are applied at once, and the version counts once", () => {
    const locks = new Locks();
    for (let i = 0; i < 2000; i++) locks.put({ kind: "added", lock: lock({ path: `/x${i}` }) });
    for (let i = 0; i < 2000; i++) locks.put({ kind: "removed", path: `/x${i}` });
    const before = locks.version;
    assert.equal(locks.apply(), true);
    assert.equal(locks.version, before + 1);
    assert.equal(locks.size, 0);
    assert.equal(locks.apply(), false);
    assert.equal(locks.version, before + 1);
});

test("those that wait come and go by their own listing, and a grant is not undone by it", () => {
    const locks = new Locks();
    locks.addPage([lock({ path: "/h" }), lock({ path: "/w1", state: "acquiring" })]);
    assert.equal(locks.setAcquiring([lock({ path: "/w2", state: "acquiring" })]), true);
    assert.equal(paths(locks), "/h /w2");
    locks.put({ kind: "added", lock: lock({ path: "/w2", state: "held" }) });
    locks.apply();
    assert.equal(locks.setAcquiring([lock({ path: "/w2", state: "acquiring" })]), false);
    assert.equal(locks.get("/w2")?.state, "held");
    assert.equal(locks.setAcquiring([]), false);
});

test("signals about other objects are not for locks", () => {
    assert.equal(lockSignal("/r", "InterfacesAdded", ["/q", { "org.example.DlmLock.Request": {} }]), null);
    assert.equal(lockSignal("/r", "InterfacesRemoved", ["/q", ["org.example.DlmLock.Request"]]), null);
    assert.equal(lockSignal("/r", "PropertiesChanged", ["org.example.DlmLock", {}]), null);
    assert.deepEqual(lockSignal("/l", "PropertiesChanged", [LOCK, { Mode: { t: "s", v: "PR" } }]), {
        kind: "changed",
        path: "/l",
        change: { mode: "PR" },
    });
});

test("a flood is drawn at once and then no more often than the gap", t => {
    t.mock.timers.enable({ apis: ["setTimeout"] });
    let now = 0;
    let drawn = 0;
    const pace = new Pace(
        () => {
            drawn++;
        },
        200,
        () => now,
    );
    for (now = 0; now < 1000; now += 5) {
        pace.ask();
        t.mock.timers.tick(5);
    }
    assert.ok(drawn >= 5 && drawn <= 6, String(drawn));
    t.mock.timers.tick(200);
    const after = drawn;
    t.mock.timers.tick(5000);
    assert.equal(drawn, after);
});
