// The head: cluster, node, quorum, engine, and what is wrong with the whole.

import { useState } from "preact/hooks";

import { startService } from "../bus/service";
import { words } from "../bus/errors";
import type { Store } from "../model/store";
import { _, counted, format } from "../text";
import { needsAdmin } from "./actions";
import { usePlace, useStore } from "./hooks";
import { Ago, Alert, Button, Foreign, Label } from "./parts";

export function Head() {
    const store = useStore();
    const { info } = store;
    return (
        <header class="dl-head">
            <h1 class="pf-v6-c-title pf-m-2xl">{_("Cluster locks")}</h1>
            {info && (
                <ul class="dl-facts-line" aria-label={_("Overview")}>
                    <li>
                        {_("Cluster")}{" "}
                        <b>
                            <Foreign text={info.ClusterName} empty={_("none")} />
                        </b>
                    </li>
                    <li>
                        {_("Node")}{" "}
                        <b>
                            <Foreign text={info.NodeName} />
                        </b>
                        {info.NodeID > 0 && ` (${info.NodeID})`}
                    </li>
                    <li>
                        <Quorum state={info.QuorumState} />
                    </li>
                    <li>
                        {info.Engine === "local" ? (
                            <Label tone="orange">{_("Embedded engine, this machine only")}</Label>
                        ) : (
                            <Label tone="blue">{_("Kernel DLM")}</Label>
                        )}
                    </li>
                    <li>{counted("$0 lock", "$0 locks", info.LockCount)}</li>
                    <li>{counted("$0 waits", "$0 wait", info.WaitingCount)}</li>
                    {info.Version !== "unknown" && <li class="dl-muted">dlmlockd {info.Version}</li>}
                </ul>
            )}
        </header>
    );
}

function Quorum({ state }: { state: string }) {
    if (state === "quorate") return <Label tone="green">{_("Quorate")}</Label>;
    return state === "inquorate" ? (
        <Label tone="red">{_("No quorum")}</Label>
    ) : (
        <Label tone="orange">{_("Quorum not known")}</Label>
    );
}

export function Alerts() {
    const store = useStore();
    const { info } = store;
    return (
        <div class="dl-alerts">
            {store.lost.all().length > 0 && <LostAlert store={store} />}
            {info && store.lost.untold(info.LocksLost) > 0 && <UntoldAlert store={store} counter={info.LocksLost} />}
            {info?.Degraded && (
                <Alert tone="danger" title={_("The service has a problem")}>
                    <bdi>{info.Degraded}</bdi>
                </Alert>
            )}
            {info?.QuorumState === "inquorate" && (
                <Alert tone="danger" title={_("The cluster has no quorum")}>
                    <p>{_("No lock is granted until enough nodes are back. Locks that are held stay held.")}</p>
                </Alert>
            )}
            {info?.Engine === "local" && (
                <Alert tone="warning" title={_("These locks are valid on this machine only")}>
                    <p>
                        {_(
                            'The service runs with its embedded lock manager (engine = "local"). Other nodes do not see these locks.',
                        )}
                    </p>
                </Alert>
            )}
            {(store.lockspaces ?? [])
                .filter(space => space.stopped)
                .map(space => (
                    <Alert
                        key={space.name}
                        tone="warning"
                        title={format(_("The lockspace $0 is stopped"), space.name)}
                    >
                        <p>
                            <bdi>{space.reason}</bdi>
                        </p>
                        <p>
                            {_("Locks that are held stay held. It resumes by itself when the cluster has recovered.")}
                        </p>
                    </Alert>
                ))}
            {store.admin === false && (
                <Alert tone="info" title={_("Read-only")}>
                    <p>
                        {_(
                            "This session has no administrative access: nothing can be changed. Turn it on in the top bar.",
                        )}
                    </p>
                </Alert>
            )}
            {!store.subscribed && store.phase === "ready" && (
                <Alert
                    tone="warning"
                    title={_("Live updates are off")}
                    actions={
                        <Button kind="link" inline onClick={() => store.connect()}>
                            {_("Reload")}
                        </Button>
                    }
                >
                    <p>
                        {_(
                            "The service accepts no more subscribers. The list shows the locks as they were when it was loaded.",
                        )}
                    </p>
                </Alert>
            )}
            {store.phase === "absent" && store.locks.size > 0 && <AbsentAlert store={store} />}
        </div>
    );
}

function LostAlert({ store }: { store: Store }) {
    const lost = store.lost.all();
    const [, go] = usePlace();
    return (
        <Alert
            live
            tone="danger"
            title={counted("$0 lock was lost", "$0 locks were lost", lost.length)}
            closeLabel={_("Dismiss the lost locks")}
            onClose={() => store.lost.dismiss(store.info?.LocksLost ?? 0)}
        >
            <p>
                {_(
                    "Nobody released them, but they are no longer held. Other nodes may have locked the same resources by now. Stop whatever relied on them.",
                )}
            </p>
            <ul class="dl-list">
                {lost.slice(0, 10).map(one => (
                    <li key={one.path + one.when}>
                        <Button
                            kind="link"
                            inline
                            onClick={() => go({ resource: { lockspace: one.lockspace, name: one.resource } })}
                        >
                            <Foreign text={one.resource} />
                        </Button>{" "}
                        ({one.mode}, <Foreign text={one.lockspace} />
                        {", "}
                        <Foreign text={one.owner || one.label} empty={_("owner not known")} />
                        ), <Ago micros={one.when} />: <bdi>{one.reason}</bdi>
                    </li>
                ))}
            </ul>
            {lost.length > 10 && <p>{counted("and $0 more", "and $0 more", lost.length - 10)}</p>}
        </Alert>
    );
}

/** The service counts all losses since its start, and lists the last of them. */
function UntoldAlert({ store, counter }: { store: Store; counter: number }) {
    const [, go] = usePlace();
    const n = store.lost.untold(counter);
    return (
        <Alert
            tone="danger"
            title={counted(
                "$0 more lock was lost",
                "$0 more locks were lost",
                n,
            )}
            closeLabel={_("Dismiss the lost locks")}
            onClose={() => store.lost.dismiss(counter)}
            actions={
                <Button kind="link" inline onClick={() => go({ tab: "history", lost: true, resource: null })}>
                    {_("Show them in the history")}
                </Button>
            }
        >
            <p>{_("The service lists only the last thousand. Its journal names all of them.")}</p>
        </Alert>
    );
}

export function useStart(store: Store): { busy: boolean; error: string; start: () => void } {
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState("");
    const start = () => {
        setBusy(true);
        setError("");
        startService()
            .then(
                () => store.connect(),
                (failure: unknown) => setError(words(failure)),
            )
            .finally(() => setBusy(false));
    };
    return { busy, error, start };
}

export function StartButton({ store }: { store: Store }) {
    const { busy, error, start } = useStart(store);
    const refused = store.admin === false ? needsAdmin() : undefined;
    return (
        <>
            <Button kind="primary" busy={busy} refused={refused} onClick={start}>
                {_("Start the service")}
            </Button>
            {error && (
                <Alert live tone="danger" title={_("That did not work")}>
                    <bdi class="dl-foreign">{error}</bdi>
                </Alert>
            )}
        </>
    );
}

function AbsentAlert({ store }: { store: Store }) {
    return (
        <Alert live tone="danger" title={_("The lock service has stopped")} actions={<StartButton store={store} />}>
            <p>
                {_("The page shows the last known state. Persistent locks are still held: they live in the kernel.")}
            </p>
        </Alert>
    );
}
