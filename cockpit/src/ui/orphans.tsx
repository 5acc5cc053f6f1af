// Orphans: persistent locks of this node that no record explains.

import { useState } from "preact/hooks";

import { kind, words } from "../bus/errors";
import type { Lockspace, Orphan } from "../bus/wire";
import type { Store } from "../model/store";
import { _, counted, format, plain } from "../text";
import { AdoptDialog, PurgeDialog, refusal } from "./actions";
import { useCall, useStore } from "./hooks";
import { Alert, Button, Card, Cut, Empty, Foreign, Loading } from "./parts";
import { Cell, Row, Table } from "./table";

// What is purged is what was shown, so no more can be purged here than are shown.
const MOST = 500;

export function OrphansView() {
    const store = useStore();
    const spaces = store.lockspaces;
    if (!spaces) return <Loading text={_("Loading the lockspaces")} />;
    if (spaces.length === 0)
        return (
            <Empty icon="node" title={_("No lockspace is joined")}>
                {_("Orphans are looked for in the lockspaces that this node has joined.")}
            </Empty>
        );
    return (
        <div class="dl-stack">
            <p class="dl-note">
                {_(
                    "An orphan is a lock of this node that outlived its process and that no record of the service explains. It is in the way of the whole cluster, and may still protect something.",
                )}
            </p>
            {spaces.map(space => (
                <SpaceOrphans key={space.name} store={store} space={space} />
            ))}
        </div>
    );
}

function SpaceOrphans({ store, space }: { store: Store; space: Lockspace }) {
    const service = store.service;
    const list = useCall(`${space.name}\n${space.orphans}\n${service ? 1 : 0}`, () =>
        service ? service.orphans(space.name) : Promise.reject({ problem: "not-found" } satisfies cockpit.Failure),
    );
    const [purging, setPurging] = useState<Orphan[] | null>(null);
    const [adopting, setAdopting] = useState<Orphan | null>(null);
    const orphans = list.value ?? [];
    const names = [_("Resource"), _("Mode"), _("Who"), _("Token"), _("Lockid"), _("Actions")];
    return (
        <Card
            title={<Foreign text={space.name} />}
            actions={
                <>
                    <Button kind="link" inline onClick={list.again} label={format(_("Look again in $0"), space.name)}>
                        {_("Look again")}
                    </Button>
                    {orphans.length > 0 && (
                        <Button
                            kind="danger"
                            inline
                            refused={
                                orphans.length > MOST
                                    ? _("There are more than are shown here: use dlmlockctl purge.")
                                    : refusal(store)
                            }
                            onClick={() => setPurging(orphans)}
                        >
                            {counted("Purge $0 orphan", "Purge $0 orphans", orphans.length)}
                        </Button>
                    )}
                </>
            }
        >
            {list.busy && <Loading text={_("Looking for orphans")} />}
            {list.error !== null &&
                (kind(list.error) === "NotSupported" ? (
                    <Alert tone="info" title={_("This engine cannot look for orphans")}>
                        <bdi>{words(list.error)}</bdi>
                    </Alert>
                ) : (
                    <Alert tone="danger" title={_("The search for orphans failed")}>
                        <bdi>{words(list.error)}</bdi>
                    </Alert>
                ))}
            {list.value && orphans.length === 0 && <p class="dl-muted">{_("No orphans.")}</p>}
            {orphans.length > 0 && (
                <Table
                    label={format(_("Orphans of $0"), space.name)}
                    heads={names.map((name, index) => ({
                        name,
                        hidden: index === 5,
                        width: ["auto", "6rem", "auto", "13rem", "9rem", "9rem"][index] ?? "auto",
                    }))}
                >
                    {orphans.slice(0, MOST).map(orphan => (
                        <Row key={orphan.lockid}>
                            <Cell name={names[0]!} kind="flex">
                                <Cut text={orphan.resource} />
                            </Cell>
                            <Cell name={names[1]!}>{orphan.mode}</Cell>
                            <Cell name={names[2]!} kind="flex">
                                {orphan.who ? (
                                    <Cut text={orphan.who} />
                                ) : (
                                    <span class="dl-muted">{_("not known")}</span>
                                )}
                            </Cell>
                            <Cell name={names[3]!}>{orphan.token || "–"}</Cell>
                            <Cell name={names[4]!}>{orphan.lockid}</Cell>
                            <Cell name={names[5]!} kind="action">
                                <Button
                                    inline
                                    refused={refusal(store)}
                                    label={format(_("Adopt $0"), plain(orphan.resource))}
                                    onClick={() => setAdopting(orphan)}
                                >
                                    {_("Adopt")}
                                </Button>
                            </Cell>
                        </Row>
                    ))}
                </Table>
            )}
            {orphans.length > MOST && (
                <p class="dl-muted">
                    {counted("$0 more is not shown.", "$0 more are not shown.", orphans.length - MOST)}
                </p>
            )}
            {adopting && (
                <AdoptDialog
                    store={store}
                    lockspace={space.name}
                    orphan={adopting}
                    onClose={() => setAdopting(null)}
                    done={list.again}
                />
            )}
            {purging && (
                <PurgeDialog
                    store={store}
                    lockspace={space.name}
                    orphans={purging}
                    onClose={() => setPurging(null)}
                    done={list.again}
                />
            )}
        </Card>
    );
}
