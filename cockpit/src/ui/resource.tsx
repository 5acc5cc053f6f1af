// All that is known of one resource: who holds it, the queues, who waits for whom,
// the value block, and what could not be looked at.

import { useState } from "preact/hooks";

import { words } from "../bus/errors";
import type { Details, Lock, Lost, Party, Queued } from "../bus/wire";
import { chain, graphOf } from "../model/chain";
import type { Store } from "../model/store";
import { _, counted, format, plain } from "../text";
import { ReleaseDialog, refusal } from "./actions";
import { Drawing, MOST_NODES } from "./graph";
import { useCall, usePlace, useStore } from "./hooks";
import { LockState } from "./locks";
import { Ago, Alert, Button, Card, Cut, Empty, Fact, Facts, Foreign, Icon, Label, Loading, nodeText } from "./parts";
import { Cell, Row, Table } from "./table";

const EVERY = 2000;

export function ResourceView({ lockspace, name }: { lockspace: string; name: string }) {
    const store = useStore();
    const [place, go] = usePlace();
    const service = store.service;
    const { value, error, busy } = useCall(
        `${lockspace}\n${name}\n${service ? "on" : "off"}`,
        () =>
            service
                ? service.inspect(lockspace, name)
                : Promise.reject(new Error(_("The lock service is not running."))),
        EVERY,
    );
    return (
        <article class="dl-stack" aria-labelledby="dl-resource-title">
            <div class="dl-title-row">
                <Button kind="link" onClick={() => go({ resource: null })}>
                    <Icon name="back" flip /> {_("Back to the list")}
                </Button>
                <h2 class="pf-v6-c-title pf-m-xl" id="dl-resource-title" tabIndex={-1}>
                    <Foreign text={name} />
                </h2>
                <span class="dl-muted">
                    {_("in the lockspace")} <Foreign text={lockspace} />
                </span>
                <Button kind="link" onClick={() => go({ ...place, tab: "history" })}>
                    {_("History of this resource")}
                </Button>
            </div>
            {error !== null && (
                <Alert
                    tone={value ? "warning" : "danger"}
                    title={
                        value
                            ? _("The resource could not be read again; what is shown may be out of date")
                            : _("This resource could not be read")
                    }
                >
                    <bdi class="dl-foreign">{words(error)}</bdi>
                </Alert>
            )}
            {!value && busy && <Loading text={_("Reading the resource")} />}
            {value && <Known store={store} details={value} />}
        </article>
    );
}

function Known({ store, details }: { store: Store; details: Details }) {
    const nodeName = (node: number) => nodeText(node, store.info);
    return (
        <>
            {details.stopped && (
                <Alert tone="warning" title={_("The lockspace is stopped")}>
                    <bdi>{details.reason}</bdi>
                </Alert>
            )}
            {details.missing.length > 0 && (
                <Alert tone="info" title={_("Some details could not be determined")}>
                    <ul class="dl-list">
                        {details.missing.map(text => (
                            <li key={text}>
                                <bdi>{text}</bdi>
                            </li>
                        ))}
                    </ul>
                </Alert>
            )}
            <Own store={store} locks={details.locks} />
            <Waits details={details} nodeName={nodeName} />
            <Queues details={details} nodeName={nodeName} />
            <Block details={details} nodeName={nodeName} />
            {details.lost.length > 0 && <LostCard lost={details.lost} />}
        </>
    );
}

function Own({ store, locks }: { store: Store; locks: Lock[] }) {
    const [releasing, setReleasing] = useState<Lock | null>(null);
    const names = [_("Owner"), _("Mode"), _("State"), _("User"), _("Since"), _("Token"), _("Lockid"), _("Actions")];
    const name = (index: number) => names[index] ?? "";
    return (
        <Card title={_("Locks of this service on this node")}>
            {locks.length === 0 ? (
                <p class="dl-muted">{_("None.")}</p>
            ) : (
                <Table
                    label={_("Locks of this service on this node")}
                    heads={names.map((text, index) => ({
                        name: text,
                        hidden: index === 7,
                        width: ["auto", "8rem", "8rem", "14rem", "9rem", "12rem", "8rem", "9rem"][index] ?? "auto",
                    }))}
                >
                    {locks.map(lock => (
                        <Row key={lock.path}>
                            <Cell name={name(0)} kind="flex">
                                <span class="dl-who">
                                    {lock.owner ? (
                                        <Cut text={lock.owner} />
                                    ) : (
                                        <span class="dl-muted">{_("no owner")}</span>
                                    )}
                                    {lock.label && (
                                        <span class="dl-muted">
                                            <Cut text={lock.label} />
                                        </span>
                                    )}
                                </span>
                            </Cell>
                            <Cell name={name(1)}>
                                {lock.mode || lock.wanted}
                                {lock.mode && lock.wanted && lock.wanted !== lock.mode && (
                                    <> {format(_("wants $0"), lock.wanted)}</>
                                )}
                            </Cell>
                            <Cell name={name(2)}>
                                <LockState state={lock.state} />
                            </Cell>
                            <Cell name={name(3)}>{format(_("uid $0, process $1"), lock.uid, lock.pid)}</Cell>
                            <Cell name={name(4)}>
                                <Ago micros={lock.since || lock.waiting} empty={_("not granted")} />
                            </Cell>
                            <Cell name={name(5)}>{lock.token || "–"}</Cell>
                            <Cell name={name(6)}>{lock.lockid || "–"}</Cell>
                            <Cell name={name(7)} kind="action">
                                {lock.state !== "acquiring" && (
                                    <Button
                                        inline
                                        refused={refusal(store)}
                                        label={format(_("Release $0"), plain(lock.owner || lock.resource))}
                                        onClick={() => setReleasing(lock)}
                                    >
                                        {_("Release")}
                                    </Button>
                                )}
                            </Cell>
                        </Row>
                    ))}
                </Table>
            )}
            {releasing && <ReleaseDialog store={store} lock={releasing} onClose={() => setReleasing(null)} />}
        </Card>
    );
}

type Names = { details: Details; nodeName: (node: number) => string };

function Waits({ details, nodeName }: Names) {
    const { waits } = details;
    if (waits.length === 0)
        return (
            <Card title={_("Who waits for whom")}>
                <p class="dl-muted">{_("Nobody waits.")}</p>
            </Card>
        );
    const graph = graphOf(waits);
    const Side = ({ party }: { party: Party }) => (
        <>
            <b>
                <Foreign text={party.who} empty={_("somebody")} />
            </b>{" "}
            ({party.mode}, {nodeName(party.node)})
        </>
    );
    return (
        <Card title={_("Who waits for whom")}>
            {graph.nodes.length <= MOST_NODES ? (
                <Drawing graph={graph} nodeName={nodeName} />
            ) : (
                <p class="dl-muted">{_("There are too many for a drawing.")}</p>
            )}
            <ol class="dl-list dl-chain">
                {chain(waits).map(({ waiter, behind }, index) => (
                    <li key={index}>
                        <Side party={waiter} /> {_("waits for")}{" "}
                        {behind.map((party, place) => (
                            <span key={place}>
                                {place > 0 && ", "}
                                <Side party={party} />
                            </span>
                        ))}
                    </li>
                ))}
            </ol>
            {waits.length >= 100 && <p class="dl-muted">{_("Only the first hundred are known.")}</p>}
        </Card>
    );
}

function Queues({ details, nodeName }: Names) {
    const rows: [string, "green" | "orange", Queued[]][] = [
        [_("granted"), "green", details.granted],
        [_("converting"), "orange", details.converting],
        [_("waiting"), "orange", details.waiting],
    ];
    const count = rows.reduce((sum, [, , list]) => sum + list.length, 0);
    const names = [_("Queue"), _("Node"), _("Mode"), _("Wants"), _("Lockid")];
    const name = (index: number) => names[index] ?? "";
    return (
        <Card title={_("Queues of the lock manager")}>
            {details.complete === false && (
                <p class="dl-note">{_("Another node keeps the queues, so only the locks of this node are shown.")}</p>
            )}
            {count === 0 ? (
                <Empty title={_("No lock")}>{_("The lock manager knows no lock on this resource.")}</Empty>
            ) : (
                <Table label={_("Queues of the lock manager")} heads={names.map(text => ({ name: text }))}>
                    {rows.flatMap(([queue, tone, list]) =>
                        list.slice(0, 200).map((lock, index) => (
                            <Row key={queue + index}>
                                <Cell name={name(0)}>
                                    <Label tone={tone}>{queue}</Label>
                                </Cell>
                                <Cell name={name(1)}>
                                    <bdi>{nodeName(lock.node)}</bdi>
                                </Cell>
                                <Cell name={name(2)}>{lock.mode || "–"}</Cell>
                                <Cell name={name(3)}>{lock.wanted || "–"}</Cell>
                                <Cell name={name(4)}>{lock.lockid}</Cell>
                            </Row>
                        )),
                    )}
                </Table>
            )}
            {rows.some(([, , list]) => list.length > 200) && (
                <p class="dl-muted">{_("Of each queue the first 200 are shown.")}</p>
            )}
        </Card>
    );
}

const hex = (value: Uint8Array): string =>
    [...value]
        .map(byte => byte.toString(16).padStart(2, "0"))
        .join(" ")
        .replace(/((?:\S+ ){7}\S+) /g, "$1\n");

function Block({ details, nodeName }: Names) {
    const { holder, value } = details;
    return (
        <Card title={_("Value block")}>
            <Facts>
                {holder && (
                    <Fact name={_("Last exclusive holder")}>
                        <Foreign text={holder.who} empty={_("not named")} /> ({holder.mode || "–"},{" "}
                        {holder.node === 0 ? _("has released it") : nodeName(holder.node)})
                    </Fact>
                )}
                {holder && <Fact name={_("Token")}>{holder.token || "–"}</Fact>}
                <Fact name={_("Master")}>{nodeName(details.master)}</Fact>
                {details.members && <Fact name={_("Members")}>{details.members.map(nodeName).join("; ") || "–"}</Fact>}
                <Fact name={_("Value")}>
                    {value ? (
                        <pre class="dl-hex" dir="ltr">
                            {hex(value)}
                        </pre>
                    ) : (
                        _("could not be read")
                    )}
                    {details.valueInvalid && (
                        <Label tone="orange">{_("may be older than the last write: a holder died")}</Label>
                    )}
                </Fact>
            </Facts>
        </Card>
    );
}

function LostCard({ lost }: { lost: Lost[] }) {
    return (
        <Card title={counted("$0 lock recently lost here", "$0 locks recently lost here", lost.length)}>
            <ul class="dl-list">
                {lost.map(one => (
                    <li key={one.path}>
                        <b>
                            <Foreign text={one.owner || one.label} empty={_("no owner")} />
                        </b>{" "}
                        ({one.mode}), <Ago micros={one.when} />: <bdi>{one.reason}</bdi>
                    </li>
                ))}
            </ul>
        </Card>
    );
}
