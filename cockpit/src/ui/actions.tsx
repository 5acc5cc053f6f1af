// The dialogs of all that changes something: each names what is at stake and the
// verb, and shows the service's words if it is refused.

import { useId, useState } from "preact/hooks";

import { kind, words } from "../bus/errors";
import type { Lock, Orphan, Request } from "../bus/wire";
import type { Store } from "../model/store";
import { _, counted, format } from "../text";
import { Dialog } from "./dialog";
import { Ago, Alert, Fact, Facts, Foreign } from "./parts";

type Close = { store: Store; onClose: () => void };

export const needsAdmin = (): string => _("Changing anything needs administrative access.");

/** What each action needs before it can be offered; why not, or undefined. */
export const refusal = (store: Store): string | undefined =>
    store.phase === "absent" || !store.service
        ? _("The lock service is not running.")
        : store.admin === false
          ? needsAdmin()
          : undefined;

const service = (store: Store) => {
    if (!store.service) throw { problem: "not-found" } satisfies cockpit.Failure;
    return store.service;
};

function LockFacts({ store, lock }: { store: Store; lock: Lock }) {
    return (
        <Facts>
            <Fact name={_("Resource")}>
                <Foreign text={lock.resource} />
            </Fact>
            <Fact name={_("Lockspace")}>
                <Foreign text={lock.lockspace} />
            </Fact>
            <Fact name={_("Mode")}>{lock.mode}</Fact>
            <Fact name={_("Owner")}>
                <Foreign text={lock.owner} empty={_("none")} />
            </Fact>
            <Fact name={_("Label")}>
                <Foreign text={lock.label} empty={_("none")} />
            </Fact>
            <Fact name={_("Held since")}>
                <Ago micros={lock.since} />
            </Fact>
            <Fact name={_("Node")}>{store.info?.NodeName}</Fact>
            <Fact name={_("User")}>{format(_("uid $0, process $1"), lock.uid, lock.pid)}</Fact>
        </Facts>
    );
}

export function ReleaseDialog({ store, lock, onClose }: Close & { lock: Lock }) {
    const others = lock.owner
        ? store.locks
              .all()
              .filter(
                  // One that still waits for its first grant can't be released.
                  other => other.owner === lock.owner && other.path !== lock.path && other.state !== "acquiring",
              )
        : [];
    const [all, setAll] = useState(false);
    const [why, setWhy] = useState("");
    const box = useId();
    return (
        <Dialog
            title={_("Release this lock?")}
            danger
            onClose={onClose}
            verb={all ? counted("Release $0 lock", "Release $0 locks", others.length + 1) : _("Release")}
            act={async () => {
                if (all) await service(store).releaseAll([lock, ...others], why);
                else await service(store).release(lock, why);
            }}
        >
            <p>
                {_(
                    "The holder is not asked, and carries on as if it still had the lock. Another node can then use the same resource at the same time. Release the lock only if you know that the holder has stopped.",
                )}
            </p>
            <LockFacts store={store} lock={lock} />
            {others.length > 0 && (
                <div class="pf-v6-c-check dl-gap">
                    <input
                        class="pf-v6-c-check__input"
                        type="checkbox"
                        id={box}
                        checked={all}
                        onChange={event => setAll(event.currentTarget.checked)}
                    />
                    <label class="pf-v6-c-check__label" for={box}>
                        {counted(
                            "Also release the other lock of this owner, in all lockspaces and of all users",
                            "Also release the $0 other locks of this owner, in all lockspaces and of all users",
                            others.length,
                        )}
                    </label>
                </div>
            )}
            <ReasonField value={why} onInput={setWhy} />
        </Dialog>
    );
}

export function CancelDialog({ store, request, onClose }: Close & { request: Request }) {
    return (
        <Dialog
            title={_("Stop waiting for this lock?")}
            verb={_("Stop waiting")}
            danger
            onClose={onClose}
            act={() => service(store).cancel(request)}
        >
            <p>{_("The program that waits gets the answer that its request was canceled.")}</p>
            <Facts>
                <Fact name={_("Resource")}>
                    <Foreign text={request.resource} />
                </Fact>
                <Fact name={_("Lockspace")}>
                    <Foreign text={request.lockspace} />
                </Fact>
                <Fact name={_("Mode")}>{request.mode}</Fact>
                <Fact name={_("Owner")}>
                    <Foreign text={request.owner} empty={_("none")} />
                </Fact>
                <Fact name={_("Waiting")}>
                    <Ago micros={request.since} />
                </Fact>
            </Facts>
        </Dialog>
    );
}

/** Why something is done, for the log: who reads it later sees only that it was root. */
function ReasonField({ value, onInput }: { value: string; onInput: (value: string) => void }) {
    return <TextField label={_("Reason for the log (optional)")} value={value} onInput={onInput} dir="auto" />;
}

function TextField({
    label,
    value,
    onInput,
    dir = "ltr",
}: {
    label: string;
    value: string;
    onInput: (value: string) => void;
    dir?: "ltr" | "auto";
}) {
    const id = useId();
    return (
        <div class="pf-v6-c-form__group dl-gap">
            <label class="pf-v6-c-form__label" for={id}>
                <span class="pf-v6-c-form__label-text">{label}</span>
            </label>
            <span class="pf-v6-c-form-control">
                <input
                    id={id}
                    type="text"
                    value={value}
                    autocomplete="off"
                    spellcheck={false}
                    dir={dir}
                    onInput={event => onInput(event.currentTarget.value)}
                />
            </span>
        </div>
    );
}

export function JoinDialog({ store, onClose }: Close) {
    const [name, setName] = useState("");
    return (
        <Dialog
            title={_("Join a lockspace")}
            verb={_("Join")}
            ready={name.trim() !== ""}
            onClose={onClose}
            act={async () => {
                await service(store).join(name.trim());
                await store.loadLockspaces();
            }}
        >
            <p>
                {_(
                    "A lockspace is a set of names that the nodes of the cluster share. This node becomes a member of it, which may take ten seconds or more.",
                )}
            </p>
            <TextField label={_("Name of the lockspace")} value={name} onInput={setName} />
        </Dialog>
    );
}

/** Leaving by force is a second step: only after the service has refused, and with the name typed. */
export function LeaveDialog({ store, lockspace, onClose }: Close & { lockspace: string }) {
    const [refused, setRefused] = useState("");
    const force = refused !== "";
    const [typed, setTyped] = useState("");
    const [why, setWhy] = useState("");
    const held = store.locks.all().filter(lock => lock.lockspace === lockspace).length;
    return (
        <Dialog
            key={String(force)}
            title={format(_("Leave the lockspace $0?"), lockspace)}
            danger
            onClose={onClose}
            verb={
                !force
                    ? _("Leave")
                    : held === 0
                      ? _("Leave by force")
                      : counted("Leave and lose $0 lock", "Leave and lose $0 locks", held)
            }
            ready={!force || typed === lockspace}
            onError={error => {
                if (kind(error) === "LockspaceInUse") setRefused(words(error));
            }}
            act={async () => {
                await service(store).leave(lockspace, force, why);
                await store.loadLockspaces();
            }}
        >
            {force ? (
                <>
                    <Alert tone="danger" live title={_("The service refused")}>
                        <p>
                            <bdi class="dl-foreign">{refused}</bdi>
                        </p>
                        {held > 0 && (
                            <p>
                                {counted(
                                    "$0 lock would be lost. What it protects would no longer be protected, and other nodes could use it at once.",
                                    "$0 locks would be lost. What they protect would no longer be protected, and other nodes could use it at once.",
                                    held,
                                )}
                            </p>
                        )}
                    </Alert>
                    <TextField
                        label={format(_("Type $0 to leave by force"), lockspace)}
                        value={typed}
                        onInput={setTyped}
                    />
                </>
            ) : (
                <p>
                    {_(
                        "This node stops being a member. If it holds locks in the lockspace, the service refuses and nothing changes.",
                    )}
                </p>
            )}
            <ReasonField value={why} onInput={setWhy} />
        </Dialog>
    );
}

export function PurgeDialog({
    store,
    lockspace,
    orphans,
    onClose,
    done,
}: Close & {
    lockspace: string;
    orphans: Orphan[];
    done: () => void;
}) {
    const [typed, setTyped] = useState("");
    const [why, setWhy] = useState("");
    return (
        <Dialog
            title={_("Purge these orphans?")}
            danger
            ready={typed === lockspace}
            onClose={onClose}
            verb={counted("Purge $0 orphan", "Purge $0 orphans", orphans.length)}
            onError={done}
            act={async () => {
                await service(store).purge(lockspace, orphans, why);
                done();
                await store.loadLockspaces();
            }}
        >
            <p>
                {_(
                    "No process holds these locks and no record explains them. They may still protect something, for example a disk of a running guest. Only the locks listed here are purged; if the service finds others by now, it refuses.",
                )}
            </p>
            <ul class="dl-list">
                {orphans.slice(0, 20).map(orphan => (
                    <li key={orphan.lockid}>
                        <Foreign text={orphan.resource} />{" "}
                        <span class="dl-muted">
                            {orphan.mode}, {orphan.lockid}
                        </span>
                        {orphan.who && (
                            <>
                                {" "}
                                <Foreign text={orphan.who} />
                            </>
                        )}
                    </li>
                ))}
            </ul>
            {orphans.length > 20 && <p>{counted("and $0 more", "and $0 more", orphans.length - 20)}</p>}
            <TextField label={format(_("Type $0 to purge them"), lockspace)} value={typed} onInput={setTyped} />
            <ReasonField value={why} onInput={setWhy} />
        </Dialog>
    );
}

/** The owner is asked for: only who knows what the lock protects knows whose it is. */
export function AdoptDialog({
    store,
    lockspace,
    orphan,
    onClose,
    done,
}: Close & {
    lockspace: string;
    orphan: Orphan;
    done: () => void;
}) {
    const [owner, setOwner] = useState("");
    const [label, setLabel] = useState("");
    return (
        <Dialog
            title={_("Adopt this orphan?")}
            verb={_("Adopt")}
            ready={owner !== ""}
            onClose={onClose}
            onError={done}
            act={async () => {
                await service(store).adopt(lockspace, orphan, owner, label);
                done();
                await store.loadLockspaces();
            }}
        >
            <p>
                {_(
                    "It becomes a persistent lock of user root, with the owner that you name, and stays held throughout. After that it can be released like any other lock.",
                )}
            </p>
            <Facts>
                <Fact name={_("Resource")}>
                    <Foreign text={orphan.resource} />
                </Fact>
                <Fact name={_("Lockspace")}>
                    <Foreign text={lockspace} />
                </Fact>
                <Fact name={_("Mode")}>{orphan.mode}</Fact>
                <Fact name={_("Who")}>
                    <Foreign text={orphan.who} empty={_("not known")} />
                </Fact>
                <Fact name={_("Lockid")}>{orphan.lockid}</Fact>
            </Facts>
            <TextField label={_("Owner")} value={owner} onInput={setOwner} />
            <TextField label={_("Label, if any")} value={label} onInput={setLabel} />
        </Dialog>
    );
}
