// The lockspaces: their state, why one is stopped, and who its members are.

import { useState } from "preact/hooks";

import type { Lockspace } from "../bus/wire";
import { noQuery } from "../model/query";
import type { Store } from "../model/store";
import { _, counted, format } from "../text";
import { JoinDialog, LeaveDialog, refusal } from "./actions";
import { usePlace, useStore } from "./hooks";
import { Alert, Button, Card, Empty, Fact, Facts, Foreign, Icon, Label, Loading, nodeName } from "./parts";

const stateText = (state: string): string =>
    ({ joining: _("joining"), ready: _("ready"), leaving: _("leaving"), failed: _("failed") })[state] ?? state;

export function LockspacesView() {
    const store = useStore();
    const [joining, setJoining] = useState(false);
    const [leaving, setLeaving] = useState("");
    const join = (
        <Button kind="primary" refused={refusal(store)} onClick={() => setJoining(true)}>
            {_("Join a lockspace")}
        </Button>
    );
    const spaces = store.lockspaces;
    return (
        <div class="dl-stack">
            {!spaces ? (
                <Loading text={_("Loading the lockspaces")} />
            ) : spaces.length === 0 ? (
                <Empty icon="node" title={_("No lockspace is joined")} actions={join}>
                    {_("Locks need a lockspace: a set of names that the nodes of the cluster share.")}
                </Empty>
            ) : (
                <>
                    <div class="dl-toolbar">{join}</div>
                    <div class="dl-grid">
                        {spaces.map(space => (
                            <SpaceCard
                                key={space.name}
                                store={store}
                                space={space}
                                onLeave={() => setLeaving(space.name)}
                            />
                        ))}
                    </div>
                </>
            )}
            {joining && <JoinDialog store={store} onClose={() => setJoining(false)} />}
            {leaving && <LeaveDialog store={store} lockspace={leaving} onClose={() => setLeaving("")} />}
        </div>
    );
}

function StateLabel({ space }: { space: Lockspace }) {
    if (space.state === "failed") return <Label tone="red">{stateText(space.state)}</Label>;
    if (space.stopped) return <Label tone="orange">{_("stopped")}</Label>;
    return <Label tone={space.state === "ready" ? "green" : "blue"}>{stateText(space.state)}</Label>;
}

function SpaceCard({ store, space, onLeave }: { store: Store; space: Lockspace; onLeave: () => void }) {
    const [, go] = usePlace();
    return (
        <Card
            title={
                <>
                    <Foreign text={space.name} /> <StateLabel space={space} />
                </>
            }
            actions={
                <Button inline refused={refusal(store)} onClick={onLeave} label={format(_("Leave $0"), space.name)}>
                    {_("Leave")}
                </Button>
            }
        >
            {space.error && (
                <Alert tone="danger" title={_("It cannot be used")}>
                    <bdi>{space.error}</bdi>
                </Alert>
            )}
            {space.stopped && (
                <Alert tone="warning" title={_("It grants no locks")}>
                    <bdi>{space.reason}</bdi>
                </Alert>
            )}
            <Facts>
                <Fact name={_("Locks")}>
                    <Button
                        kind="link"
                        inline
                        onClick={() => go({ tab: "locks", query: { ...noQuery, lockspace: space.name } })}
                    >
                        {counted("$0 lock", "$0 locks", space.locks)}
                    </Button>
                </Fact>
                <Fact name={_("Orphans")}>
                    {space.orphans < 0 ? (
                        _("not known")
                    ) : space.orphans === 0 ? (
                        _("none")
                    ) : (
                        <Button kind="link" inline onClick={() => go({ tab: "orphans" })}>
                            {counted("$0 orphan", "$0 orphans", space.orphans)}
                        </Button>
                    )}
                </Fact>
                <Fact name={_("Quorum")}>
                    {space.quorate === null ? _("not known") : space.quorate ? _("yes") : _("no")}
                </Fact>
                {space.recovery !== null && (
                    <Fact name={_("Recovery")}>
                        {space.recovery === 0
                            ? _("none in progress")
                            : format(_("in progress (status 0x$0)"), space.recovery.toString(16))}
                    </Fact>
                )}
                {space.rawValues && (
                    <Fact name={_("Value blocks")}>{_("are the clients' own; there are no fencing tokens")}</Fact>
                )}
            </Facts>
            <NodeMap store={store} members={space.members} />
        </Card>
    );
}

/** The members, by their names as far as they are known, and by number. */
function NodeMap({ store, members }: { store: Store; members: number[] | null }) {
    const own = store.info?.NodeID ?? 0;
    if (!members || members.length === 0) return <p class="dl-muted">{_("The members are not known.")}</p>;
    return (
        <ul class="dl-nodes" aria-label={_("Members")}>
            {members.map(node => {
                const name = nodeName(node, store.info);
                const title = name ? <Foreign text={name} /> : format(_("Node $0"), node);
                return (
                    <li key={node} class={node === own ? "dl-node dl-own" : "dl-node"}>
                        <Icon name="node" />
                        <span>{node === own ? <b>{title}</b> : title}</span>
                        <span class="dl-muted">
                            {node === own
                                ? format(_("node $0, this one"), node)
                                : name
                                  ? format(_("node $0"), node)
                                  : _("member")}
                        </span>
                    </li>
                );
            })}
        </ul>
    );
}
