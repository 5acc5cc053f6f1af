// The table of locks: filters, sort, one page of rows.

import type { ComponentChildren } from "preact";
import { useMemo, useState } from "preact/hooks";

import type { Lock } from "../bus/wire";
import {
    Column,
    MODES,
    Query,
    SIZES,
    STATES,
    filtered,
    hasFilter,
    noQuery,
    pageOf,
    sorted,
    waits,
} from "../model/query";
import type { Store } from "../model/store";
import { _, counted, format, numbers, plain } from "../text";
import { ReleaseDialog, refusal } from "./actions";
import { usePlace, useStore } from "./hooks";
import { Ago, Button, Cut, Empty, Icon, Label, Loading, Select } from "./parts";
import { Cell, Head, Row, Table } from "./table";

export const stateText = (state: string): string =>
    ({ acquiring: _("waiting"), held: _("held"), converting: _("converting"), releasing: _("releasing") })[state] ??
    state;

const stateTone = { acquiring: "orange", held: "green", converting: "orange", releasing: "" } as const;

export function LockState({ state }: { state: string }) {
    return <Label tone={stateTone[state as keyof typeof stateTone] ?? ""}>{stateText(state)}</Label>;
}

const lifetimeText = (lifetime: string): string =>
    ({ persistent: _("persistent"), connection: _("connection"), process: _("process") })[lifetime] ?? lifetime;

const heads = (): Head<Column>[] => [
    { name: _("Resource"), column: "resource" },
    { name: _("Lockspace"), column: "lockspace", width: "12%" },
    { name: _("Mode"), column: "mode", width: "6.5rem" },
    { name: _("State"), column: "state", width: "8rem" },
    { name: _("Owner"), column: "owner" },
    { name: _("User"), column: "uid", width: "6.5rem" },
    { name: _("Lifetime"), column: "lifetime", width: "8rem" },
    { name: _("Since"), column: "since", width: "9rem" },
    { name: _("Actions"), hidden: true, width: "9rem" },
];

export function LocksView() {
    const store = useStore();
    const [{ query }, go] = usePlace();
    const [releasing, setReleasing] = useState<Lock | null>(null);
    const set = (change: Partial<Query>, step = true) => go({ query: { ...query, page: 0, ...change } }, step);
    const { text, lockspace, mode, state, uid, waiting, sort, descending } = query;
    const matching = useMemo(
        () => filtered(store.locks.all(), query),
        [store.locks, store.locks.version, text, lockspace, mode, state, uid, waiting],
    );
    const ordered = useMemo(() => sorted(matching, sort, descending), [matching, sort, descending]);
    const view = pageOf(ordered, query);
    const columns = heads();
    const body = (): ComponentChildren => {
        if (store.locks.size === 0 && store.phase !== "ready") return <Loading text={_("Loading the locks")} />;
        if (store.locks.size === 0)
            return (
                <Empty icon="lock" title={_("Nothing is locked")}>
                    {_("No program on this node holds a lock of this service or waits for one.")}
                </Empty>
            );
        if (view.matches === 0)
            return (
                <Empty
                    icon="search"
                    title={_("No lock matches")}
                    actions={
                        <Button kind="link" onClick={() => set(noQuery)}>
                            {_("Clear all filters")}
                        </Button>
                    }
                >
                    {_("There are other locks. Change the filters to see them.")}
                </Empty>
            );
        return (
            <>
                <Table
                    label={_("Locks")}
                    heads={columns}
                    sorting={{
                        column: sort,
                        descending,
                        onSort: (column, down) => set({ sort: column, descending: down }),
                    }}
                >
                    {view.rows.map(lock => (
                        <LockRow
                            key={lock.path}
                            lock={lock}
                            store={store}
                            names={columns}
                            onRelease={() => setReleasing(lock)}
                        />
                    ))}
                </Table>
                <Pages query={query} view={view} set={set} />
            </>
        );
    };
    return (
        <>
            <Filters store={store} query={query} matches={view.matches} set={set} />
            {body()}
            {releasing && <ReleaseDialog store={store} lock={releasing} onClose={() => setReleasing(null)} />}
        </>
    );
}

function LockRow({
    lock,
    store,
    names,
    onRelease,
}: {
    lock: Lock;
    store: Store;
    names: Head<Column>[];
    onRelease: () => void;
}) {
    const [, go] = usePlace();
    const name = (index: number) => names[index]!.name;
    return (
        <Row>
            <Cell name={name(0)} kind="flex">
                <Button
                    kind="link"
                    inline
                    onClick={() => go({ resource: { lockspace: lock.lockspace, name: lock.resource } })}
                >
                    <Cut text={lock.resource} />
                </Button>
            </Cell>
            <Cell name={name(1)} kind="flex">
                <Cut text={lock.lockspace} />
            </Cell>
            <Cell name={name(2)}>
                <ModeText lock={lock} />
            </Cell>
            <Cell name={name(3)}>
                <LockState state={lock.state} />
            </Cell>
            <Cell name={name(4)} kind="flex">
                <Who lock={lock} />
            </Cell>
            <Cell name={name(5)}>{lock.uid}</Cell>
            <Cell name={name(6)}>{lifetimeText(lock.lifetime)}</Cell>
            <Cell name={name(7)}>
                {lock.since || !waits(lock) ? (
                    <Ago micros={lock.since} />
                ) : (
                    <span class="dl-muted">
                        <Ago micros={lock.waiting} empty={_("not granted")} />
                    </span>
                )}
            </Cell>
            <Cell name={name(8)} kind="action">
                {lock.state === "acquiring" ? null : (
                    <Button
                        kind="secondary"
                        inline
                        refused={refusal(store)}
                        onClick={onRelease}
                        label={format(_("Release $0"), plain(lock.resource))}
                    >
                        {_("Release")}
                    </Button>
                )}
            </Cell>
        </Row>
    );
}

function ModeText({ lock }: { lock: Lock }) {
    if (lock.mode && lock.wanted && lock.wanted !== lock.mode)
        return (
            <span>
                {lock.mode} <Icon name="next" flip />
                <span class="pf-v6-screen-reader">{_("wants")}</span> {lock.wanted}
            </span>
        );
    return <span>{lock.mode || lock.wanted}</span>;
}

function Who({ lock }: { lock: Lock }) {
    return (
        <span class="dl-who">
            {lock.owner ? <Cut text={lock.owner} /> : <span class="dl-muted">{_("no owner")}</span>}
            {lock.label && (
                <span class="dl-muted">
                    <Cut text={lock.label} />
                </span>
            )}
        </span>
    );
}

type Set = (change: Partial<Query>, step?: boolean) => void;

function Filters({ store, query, matches, set }: { store: Store; query: Query; matches: number; set: Set }) {
    const [uids, spaces] = useMemo(() => {
        const uids = new Set<number>();
        const spaces = new Set<string>((store.lockspaces ?? []).map(space => space.name));
        for (const lock of store.locks.all()) {
            uids.add(lock.uid);
            spaces.add(lock.lockspace);
        }
        return [[...uids].sort((a, b) => a - b), [...spaces].sort()];
    }, [store.locks, store.locks.version, store.lockspaces]);
    const options = (all: string, values: string[], text = (value: string) => value) => [
        { value: "", text: all },
        ...values.map(value => ({ value, text: text(value) })),
    ];
    return (
        <div class="dl-toolbar" role="search" aria-label={_("Filters")}>
            <span class="pf-v6-c-form-control pf-m-icon dl-search">
                <input
                    type="search"
                    placeholder={_("Resource, owner, label")}
                    aria-label={_("Filter by resource, owner or label")}
                    value={query.text}
                    onInput={event => set({ text: event.currentTarget.value }, false)}
                />
            </span>
            <Select
                label={_("Lockspace")}
                value={query.lockspace}
                onChange={lockspace => set({ lockspace })}
                options={options(_("All lockspaces"), spaces)}
            />
            <Select
                label={_("Mode")}
                value={query.mode}
                onChange={mode => set({ mode })}
                options={options(_("All modes"), MODES)}
            />
            <Select
                label={_("State")}
                value={query.state}
                onChange={state => set({ state })}
                options={options(_("All states"), STATES, stateText)}
            />
            <Select
                label={_("User")}
                value={query.uid}
                onChange={uid => set({ uid })}
                options={options(_("All users"), uids.map(String), uid => format(_("uid $0"), uid))}
            />
            <label class="pf-v6-c-check dl-check">
                <input
                    class="pf-v6-c-check__input"
                    type="checkbox"
                    checked={query.waiting}
                    onChange={event => set({ waiting: event.currentTarget.checked })}
                />
                <span class="pf-v6-c-check__label">{_("Waiting only")}</span>
            </label>
            <span class="dl-count" role="status">
                {store.phase === "loading"
                    ? counted("$0 lock, loading", "$0 locks, loading", store.locks.size)
                    : hasFilter(query)
                      ? format(_("$0 of $1 locks"), numbers(matches), numbers(store.locks.size))
                      : counted("$0 lock", "$0 locks", store.locks.size)}
            </span>
            {hasFilter(query) && (
                <Button
                    kind="link"
                    inline
                    onClick={() =>
                        set({ ...noQuery, sort: query.sort, descending: query.descending, perPage: query.perPage })
                    }
                >
                    {_("Clear all filters")}
                </Button>
            )}
        </div>
    );
}

function Pages({ query, view, set }: { query: Query; view: ReturnType<typeof pageOf>; set: Set }) {
    const from = view.page * query.perPage;
    const turn = (page: number) => set({ page });
    const first = view.page === 0 ? _("This is the first page.") : undefined;
    const last = view.page >= view.pages - 1 ? _("This is the last page.") : undefined;
    return (
        <nav class="dl-pages" aria-label={_("Pages")}>
            <Select
                label={_("Rows on a page")}
                value={String(query.perPage)}
                onChange={size => set({ perPage: Number(size) })}
                options={SIZES.map(size => ({ value: String(size), text: counted("$0 row", "$0 rows", size) }))}
            />
            <span>
                {format(
                    _("$0 to $1 of $2"),
                    numbers(from + 1),
                    numbers(from + view.rows.length),
                    numbers(view.matches),
                )}
            </span>
            <Button kind="plain" label={_("Previous page")} refused={first} onClick={() => turn(view.page - 1)}>
                <Icon name="back" flip />
            </Button>
            <span>{format(_("Page $0 of $1"), numbers(view.page + 1), numbers(view.pages))}</span>
            <Button kind="plain" label={_("Next page")} refused={last} onClick={() => turn(view.page + 1)}>
                <Icon name="next" flip />
            </Button>
        </nav>
    );
}
