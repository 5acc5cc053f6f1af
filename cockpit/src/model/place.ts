// Where the user is, as the address says it: tab, filters, sort, page and the
// selected resource. Whoever opens the address sees the same.

import { Query, SIZES, columns, noQuery } from "./query";

export const tabs = ["locks", "waiting", "lockspaces", "orphans", "history"] as const;
export type Tab = (typeof tabs)[number];

export interface Place {
    tab: Tab;
    query: Query;
    resource: { lockspace: string; name: string } | null;
    lost: boolean; // of the history, lost locks alone
}

type Options = Record<string, string | string[] | undefined>;

const one = (options: Options, key: string): string => {
    const value = options[key];
    return (Array.isArray(value) ? value[0] : value) ?? "";
};

export function parsePlace(path: string[], options: Options): Place {
    const tab = tabs.find(name => name === path[0]) ?? "locks";
    const sort = one(options, "sort");
    const column = columns.find(name => name === sort.replace(/^-/, ""));
    const perPage = Number(one(options, "per-page"));
    const page = Number(one(options, "page"));
    const name = one(options, "resource");
    return {
        tab,
        query: {
            text: one(options, "q"),
            lockspace: one(options, "lockspace"),
            mode: one(options, "mode"),
            state: one(options, "state"),
            uid: one(options, "user"),
            waiting: one(options, "waiting") !== "",
            sort: column ?? noQuery.sort,
            descending: column ? sort.startsWith("-") : noQuery.descending,
            page: Number.isInteger(page) && page > 1 ? page - 1 : 0,
            perPage: SIZES.includes(perPage) ? perPage : noQuery.perPage,
        },
        resource: name ? { lockspace: one(options, "in"), name } : null,
        lost: one(options, "lost") !== "",
    };
}

export function formatPlace(place: Place): { path: string[]; options: Record<string, string> } {
    const { query } = place;
    const all: Record<string, string> = {
        "q": query.text,
        "lockspace": query.lockspace,
        "mode": query.mode,
        "state": query.state,
        "user": query.uid,
        "waiting": query.waiting ? "1" : "",
        "sort":
            query.sort === noQuery.sort && query.descending === noQuery.descending
                ? ""
                : (query.descending ? "-" : "") + query.sort,
        "page": query.page > 0 ? String(query.page + 1) : "",
        "per-page": query.perPage === noQuery.perPage ? "" : String(query.perPage),
        "in": place.resource?.lockspace ?? "",
        "resource": place.resource?.name ?? "",
        "lost": place.lost ? "1" : "",
    };
    return {
        path: place.tab === "locks" ? [] : [place.tab],
        options: Object.fromEntries(Object.entries(all).filter(([, value]) => value !== "")),
    };
}
