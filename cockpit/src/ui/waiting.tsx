// Who waits, for what, behind whom, since when.
//
// The bus has no list of that: what waits comes from the locks, in whose way it is
// from one Inspect for each resource. So the page asks for some resources at a
// time, the rest behind a button.

import { useMemo, useState } from "preact/hooks";

import type { Details, Lock, Party, Request } from "../bus/wire";
import { natural, waits } from "../model/query";
import type { Store } from "../model/store";
import { _, counted, plain, format } from "../text";
import { CancelDialog, refusal } from "./actions";
import { useCall, usePlace, useStore } from "./hooks";
import { Ago, Button, Cut, Empty, Foreign, Label, Loading, nodeText } from "./parts";
import { Cell, Row, Table } from "./table";

const FIRST = 50;
const AT_ONCE = 8;
const EVERY = 3000;

interface Place {
    lockspace: string;
    resource: string;
    locks: Lock[];
}

function placesOf(locks: Lock[]): Place[] {
    const places = new Map<string, Place>();
    for (const lock of locks) {
        if (!waits(lock)) continue;
        const key = lock.lockspace + "\n" + lock.resource;
        const place = places.get(key) ?? { lockspace: lock.lockspace, resource: lock.resource, locks: [] };
        place.locks.push(lock);
        places.set(key, place);
    }
    return [...places.values()].sort((a, b) => (natural(a.resource) < natural(b.resource) ? -1 : 1));
}

/** Inspects several at once, but not all: null where it could not be looked. */
async function inspectAll(store: Store, places: Place[]): Promise<Map<string, Details | null>> {
    const found = new Map<string, Details | null>();
    const left = [...places];
    const worker = async () => {
        for (let place = left.shift(); place; place = left.shift()) {
            const details = (await store.service?.inspect(place.lockspace, place.resource).catch(() => null)) ?? null;
            found.set(place.lockspace + "\n" + place.resource, details);
        }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, worker));
    return found;
}

/** The Request object of a waiter, where it is one: the same lock by all that both tell. */
export function requestOf(store: Store, lock: Lock): Request | undefined {
    const same = [...store.requests.values()].filter(
        request =>
            request.state === "waiting" &&
            request.resource === lock.resource &&
            request.lockspace === lock.lockspace &&
            request.owner === lock.owner &&
            request.uid === lock.uid &&
            request.label === lock.label &&
            request.mode === (lock.wanted || lock.mode),
    );
    return same.length === 1 ? same[0] : undefined; // of several alike nobody knows which
}

export function WaitingView() {
    const store = useStore();
    const [shown, setShown] = useState(FIRST);
    const [canceling, setCanceling] = useState<Request | null>(null);
    const places = useMemo(() => placesOf(store.locks.all()), [store.locks, store.locks.version]);
    const visible = places.slice(0, shown);
    const details = useCall("waits " + shown, () => inspectAll(store, visible), EVERY);
    if (places.length === 0 && store.phase !== "ready") return <Loading text={_("Loading the locks")} />;
    if (places.length === 0)
        return (
            <Empty icon="clock" title={_("Nobody waits")}>
                {_("Every lock that was asked for on this node is granted.")}
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
                {visible.flatMap(place =>
                    place.locks.map(lock => (
                        <WaitRow
                            key={lock.path}
                            store={store}
                            lock={lock}
                            names={names}
                            details={details.value?.get(place.lockspace + "\n" + place.resource)}
                            onCancel={setCanceling}
                        />
                    )),
                )}
            </Table>
            {places.length > shown && (
                <Button kind="secondary" onClick={() => setShown(shown + FIRST)}>
                    {counted(
                        "Show $0 more resource",
                        "Show $0 more resources",
                        Math.min(FIRST, places.length - shown),
                    )}
                </Button>
            )}
            {canceling && <CancelDialog store={store} request={canceling} onClose={() => setCanceling(null)} />}
        </>
    );
}

function WaitRow({
    store,
    lock,
    names,
    details,
    onCancel,
}: {
    store: Store;
    lock: Lock;
    names: string[];
    details: Details | null | undefined;
    onCancel: (request: Request) => void;
}) {
    const [, go] = usePlace();
    const request = requestOf(store, lock);
    const name = (index: number) => names[index] ?? "";
    return (
        <Row>
            <Cell name={name(0)} kind="flex">
                <span class="dl-who">
                    <Button
                        kind="link"
                        inline
                        onClick={() => go({ resource: { lockspace: lock.lockspace, name: lock.resource } })}
                    >
                        <Cut text={lock.resource} />
                    </Button>
                    <span class="dl-muted">
                        <Cut text={lock.lockspace} />
                    </span>
                </span>
            </Cell>
            <Cell name={name(1)}>
                <Label tone="orange">{lock.wanted || lock.mode}</Label>
                {lock.state === "converting" && <> {format(_("holds $0"), lock.mode)}</>}
            </Cell>
            <Cell name={name(2)} kind="flex">
                <span class="dl-who">
                    <Foreign text={lock.owner || lock.label} empty={_("no owner")} />
                    <span class="dl-muted">{format(_("uid $0, process $1"), lock.uid, lock.pid)}</span>
                </span>
            </Cell>
            <Cell name={name(3)} kind="wrap">
                <Behind store={store} lock={lock} details={details} />
            </Cell>
            <Cell name={name(4)}>
                <Since store={store} lock={lock} request={request} />
            </Cell>
            <Cell name={name(5)} kind="action">
                {request && (
                    <Button
                        inline
                        refused={refusal(store)}
                        onClick={() => onCancel(request)}
                        label={format(_("Stop waiting for $0"), plain(lock.resource))}
                    >
                        {_("Stop waiting")}
                    </Button>
                )}
            </Cell>
        </Row>
    );
}

function Since({ store, lock, request }: { store: Store; lock: Lock; request: Request | undefined }) {
    if (request) return <Ago micros={request.since} />;
    const seen = store.seen.get(lock.path);
    return seen ? (
        <span class="dl-who">
            <Ago micros={seen} />
            <span class="dl-muted">{_("or longer")}</span>
        </span>
    ) : (
        <span class="dl-muted">{_("not known")}</span>
    );
}

function blockers(details: Details, lock: Lock): Party[] {
    const mine = details.waits.filter(({ waiter }) => lock.lockid !== 0 && waiter.lockid === lock.lockid);
    const likely =
        mine.length > 0
            ? mine
            : details.waits.filter(
                  ({ waiter }) =>
                      waiter.mode === (lock.wanted || lock.mode) &&
                      (waiter.who === lock.owner || waiter.who === lock.label),
              );
    return likely.map(wait => wait.blocker);
}

function Behind({ store, lock, details }: { store: Store; lock: Lock; details: Details | null | undefined }) {
    if (details === undefined) return <span class="dl-muted">{_("looking")}</span>;
    if (details === null) return <span class="dl-muted">{_("could not be looked at")}</span>;
    const parties = blockers(details, lock);
    if (parties.length === 0)
        return <span class="dl-muted">{details.stopped ? _("the lockspace stands still") : _("not known")}</span>;
    const shown = parties.slice(0, 3);
    return (
        <ul class="dl-plain">
            {shown.map((party, index) => (
                <li key={index}>
                    <Foreign text={party.who} empty={_("somebody")} />{" "}
                    <span class="dl-muted">
                        {party.mode}, {nodeText(party.node, store.info?.NodeID ?? 0, store.info?.NodeName ?? "")}
                    </span>
                </li>
            ))}
            {parties.length > 3 && <li>{counted("and $0 more", "and $0 more", parties.length - 3)}</li>}
        </ul>
    );
}
