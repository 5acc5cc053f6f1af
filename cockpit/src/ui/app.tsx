// The page: head, alerts, tabs, and the view that the address names.

import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";

import { Tab, tabs } from "../model/place";
import { waits } from "../model/query";
import type { Store } from "../model/store";
import { _, numbers } from "../text";
import { Alerts, Head, StartButton } from "./head";
import { HistoryView } from "./history";
import { usePlace, useStore } from "./hooks";
import { LocksView } from "./locks";
import { LockspacesView } from "./lockspaces";
import { OrphansView } from "./orphans";
import { Button, Empty } from "./parts";
import { ResourceView } from "./resource";
import { WaitingView } from "./waiting";

const tabText = (tab: Tab): string =>
    ({
        locks: _("Locks"),
        waiting: _("Waiting"),
        lockspaces: _("Lockspaces"),
        orphans: _("Orphans"),
        history: _("History"),
    })[tab];

export function App() {
    const store = useStore();
    return (
        <main class="dl-page">
            <Head />
            <Alerts />
            <Body store={store} />
        </main>
    );
}

/** Without the service there is nothing to show, unless it was there before. */
function Body({ store }: { store: Store }) {
    if (store.phase === "denied")
        return (
            <Empty
                icon="lock"
                title={_("You are not allowed to see the locks")}
                actions={
                    <Button kind="secondary" onClick={() => store.connect()}>
                        {_("Try again")}
                    </Button>
                }
            >
                <p>
                    <bdi>{store.problem}</bdi>
                </p>
            </Empty>
        );
    if (store.phase === "absent" && store.locks.size === 0)
        return (
            <Empty icon="danger" title={_("The lock service is not running")} actions={<StartButton store={store} />}>
                <p>{_("dlmlockd is not running, and nothing starts it automatically. Start it here, or with:")}</p>
                <p>
                    <code dir="ltr">systemctl enable --now dlmlockd</code>
                </p>
            </Empty>
        );
    if (store.phase === "failed" && store.locks.size === 0)
        return (
            <Empty
                icon="danger"
                title={_("The locks could not be loaded")}
                actions={
                    <Button kind="secondary" onClick={() => store.connect()}>
                        {_("Try again")}
                    </Button>
                }
            >
                <p>
                    <bdi>{store.problem}</bdi>
                </p>
            </Empty>
        );
    return <Tabs store={store} />;
}

function Tabs({ store }: { store: Store }) {
    const [{ tab, resource }, go] = usePlace();
    const list = useRef<HTMLUListElement>(null);
    const move = (event: KeyboardEvent) => {
        const rtl = document.documentElement.dir === "rtl" ? -1 : 1;
        const step = { ArrowRight: rtl, ArrowLeft: -rtl }[event.key] ?? 0;
        const at = event.key === "Home" ? 0 : event.key === "End" ? tabs.length - 1 : tabs.indexOf(tab) + step;
        const next = tabs[(at + tabs.length) % tabs.length];
        if (!next || next === tab) return;
        event.preventDefault();
        go({ tab: next, resource: null, lost: false });
        list.current?.querySelector<HTMLElement>(`#tab-${next}`)?.focus();
    };
    const waiting = store.locks.all().reduce((count, lock) => count + (waits(lock) ? 1 : 0), 0);
    const orphans = (store.lockspaces ?? []).reduce((sum, space) => sum + Math.max(0, space.orphans), 0);
    const badge = { waiting, orphans, locks: 0, lockspaces: 0, history: 0 };
    return (
        <>
            <div class="pf-v6-c-tabs dl-tabs">
                <ul class="pf-v6-c-tabs__list" role="tablist" ref={list} onKeyDown={move} aria-label={_("Views")}>
                    {tabs.map(name => (
                        <li
                            key={name}
                            class={"pf-v6-c-tabs__item" + (name === tab ? " pf-m-current" : "")}
                            role="presentation"
                        >
                            <button
                                type="button"
                                id={`tab-${name}`}
                                class="pf-v6-c-tabs__link"
                                role="tab"
                                aria-selected={name === tab}
                                aria-controls="dl-panel"
                                tabIndex={name === tab ? 0 : -1}
                                onClick={() => go({ tab: name, resource: null, lost: false })}
                            >
                                <span class="pf-v6-c-tabs__item-text">{tabText(name)}</span>
                                {badge[name] > 0 && <span class="dl-badge">{numbers(badge[name])}</span>}
                            </button>
                        </li>
                    ))}
                </ul>
            </div>
            <div id="dl-panel" role="tabpanel" aria-labelledby={`tab-${tab}`} class="dl-panel">
                <View tab={tab} resource={resource} />
            </div>
        </>
    );
}

/** The focus goes where a resource is opened, so that a screen reader begins there. */
function Focused({ name, children }: { name: string; children: ComponentChildren }) {
    useEffect(() => document.getElementById("dl-resource-title")?.focus(), [name]);
    return <>{children}</>;
}

function View({ tab, resource }: { tab: Tab; resource: { lockspace: string; name: string } | null }) {
    if (resource && tab !== "history")
        return (
            <Focused name={resource.name}>
                <ResourceView lockspace={resource.lockspace} name={resource.name} />
            </Focused>
        );
    switch (tab) {
        case "waiting":
            return <WaitingView />;
        case "lockspaces":
            return <LockspacesView />;
        case "orphans":
            return <OrphansView />;
        case "history":
            return <HistoryView />;
        default:
            return <LocksView />;
    }
}
