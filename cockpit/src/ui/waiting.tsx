// Who waits on this node, for what, behind whom, since when: the service's own list.

import { useMemo, useState } from "preact/hooks";

import { words } from "../bus/errors";
import type { Request, Waiter } from "../bus/wire";
import { natural } from "../model/query";
import type { Store } from "../model/store";
import { _, counted, plain, format } from "../text";
import { CancelDialog, refusal } from "./actions";
import { useCall, usePlace, useStore } from "./hooks";
import { Ago, Alert, Button, Cut, Empty, Foreign, Label, Loading, nodeText } from "./parts";
import { Cell, Row, Table } from "./table";

const MOST = 1000; // waiters that are asked for
const FIRST = 100; // rows that are drawn, and as many more each time
const EVERY = 2000;

/** By resource, and on each in the order in which they came. */
function inOrder(waiters: Waiter[]): Waiter[] {
    const keyed = waiters.map(waiter => ({ waiter, key: natural(waiter.resource) + "\n" + waiter.lockspace }));
    keyed.sort((a, b) => (a.key < b.key ? -1 : a.key > b.key ? 1 : a.waiter.since - b.waiter.since));
    return keyed.map(({ waiter }) => waiter);
}

/** The Request object of a waiter, where it is one: the same lock by all that both tell. */
function requestOf(store: Store, waiter: Waiter): Request | undefined {
    const same = [...store.requests.values()].filter(
        request =>
            request.state === "waiting" &&
            request.resource === waiter.resource &&
            request.lockspace === waiter.lockspace &&
            request.owner === waiter.owner &&
            request.uid === waiter.uid &&
            request.label === waiter.label &&
            request.mode === waiter.wanted,
    );
    return same.length === 1 ? same[0] : undefined; // of several alike nobody knows which
}

export function WaitingView() {
    const store = useStore();
    const [shown, setShown] = useState(FIRST);
    const [canceling, setCanceling] = useState<Request | null>(null);
    // While the service is away, what it said last stays.
    const { value, error } = useCall(
        "waits",
        () =>
            store.service?.waits(MOST) ?? Promise.reject({ problem: "not-found" } satisfies cockpit.Failure),
        EVERY,
    );
    const waiters = useMemo(() => inOrder(value ?? []), [value]);
    if (!value && (error === null || store.phase === "connecting" || store.phase === "loading"))
        return <Loading text={_("Loading the waiters")} />;
    if (!value)
        return (
            <Alert tone="danger" title={_("The waiters could not be listed")}>
                <bdi class="dl-foreign">{words(error)}</bdi>
            </Alert>
        );
    if (waiters.length === 0)
        return (
            <Empty icon="clock" title={_("Nobody waits")}>
                {_("Every lock requested on this node has been granted.")}
            </Empty>
        );
    const names = [_("Resource"), _("Wants"), _("Who"), _("Behind"), _("Waiting since"), _("Actions")];
    return (
        <>
            <p class="dl-note">
                {_("These are the waiters of this node. Waiters of other nodes are shown with the resource.")}
            </p>
            <Table
                label={_("Waiting")}
                heads={names.map((name, index) => ({
                    name,
                    hidden: index === 5,
                    width: ["auto", "9rem", "auto", "auto", "9rem", "13rem"][index] ?? "auto",
                }))}
            >
                {waiters.slice(0, shown).map(waiter => (
                    <WaitRow key={waiter.path} store={store} waiter={waiter} names={names} onCancel={setCanceling} />
                ))}
            </Table>
            {waiters.length > shown && (
                <Button kind="secondary" onClick={() => setShown(shown + FIRST)}>
                    {counted("Show $0 more", "Show $0 more", Math.min(FIRST, waiters.length - shown))}
                </Button>
            )}
            {value.length >= MOST && (
                <p class="dl-muted">{_("There may be more: dlmlockctl tree shows all.")}</p>
            )}
            {canceling && <CancelDialog store={store} request={canceling} onClose={() => setCanceling(null)} />}
        </>
    );
}

function WaitRow({
    store,
    waiter,
    names,
    onCancel,
}: {
    store: Store;
    waiter: Waiter;
    names: string[];
    onCancel: (request: Request) => void;
}) {
    const [, go] = usePlace();
    const request = requestOf(store, waiter);
    const name = (index: number) => names[index] ?? "";
    return (
        <Row>
            <Cell name={name(0)} kind="flex">
                <span class="dl-who">
                    <Button
                        kind="link"
                        inline
                        onClick={() => go({ resource: { lockspace: waiter.lockspace, name: waiter.resource } })}
                    >
                        <Cut text={waiter.resource} />
                    </Button>
                    <span class="dl-muted">
                        <Cut text={waiter.lockspace} />
                    </span>
                </span>
            </Cell>
            <Cell name={name(1)}>
                <Label tone="orange">{waiter.wanted}</Label>
                {waiter.mode && <> {format(_("holds $0"), waiter.mode)}</>}
            </Cell>
            <Cell name={name(2)} kind="flex">
                <span class="dl-who">
                    <Foreign text={waiter.owner || waiter.label} empty={_("no owner")} />
                    <span class="dl-muted">{format(_("uid $0, process $1"), waiter.uid, waiter.pid)}</span>
                </span>
            </Cell>
            <Cell name={name(3)} kind="wrap">
                <Behind store={store} waiter={waiter} />
            </Cell>
            <Cell name={name(4)}>
                <Ago micros={waiter.since} />
            </Cell>
            <Cell name={name(5)} kind="action">
                {request && (
                    <Button
                        inline
                        refused={refusal(store)}
                        onClick={() => onCancel(request)}
                        label={format(_("Stop waiting for $0"), plain(waiter.resource))}
                    >
                        {_("Stop waiting")}
                    </Button>
                )}
            </Cell>
        </Row>
    );
}

function Behind({ store, waiter }: { store: Store; waiter: Waiter }) {
    const { behind } = waiter;
    if (behind.length === 0) {
        const stopped = store.lockspaces?.find(space => space.name === waiter.lockspace)?.stopped;
        return (
            <span class="dl-muted">
                {stopped
                    ? _("the lockspace is stopped")
                    : waiter.master && waiter.master !== store.info?.NodeID
                      ? format(_("not known here: ask $0"), nodeText(waiter.master, store.info))
                      : _("not known")}
            </span>
        );
    }
    const shown = behind.slice(0, 3);
    return (
        <ul class="dl-plain">
            {shown.map((party, index) => (
                <li key={index}>
                    <Foreign text={party.who} empty={_("somebody")} />{" "}
                    <span class="dl-muted">
                        {party.mode}, {nodeText(party.node, store.info)}
                    </span>
                </li>
            ))}
            {behind.length > 3 && <li>{counted("and $0 more", "and $0 more", behind.length - 3)}</li>}
        </ul>
    );
}
