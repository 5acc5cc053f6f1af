// A table that is a list of cards on a narrow screen. The roles are named because a
// table that is laid out otherwise loses them.

import type { ComponentChildren } from "preact";

import { Icon } from "./parts";

export interface Head<C extends string> {
    name: string;
    column?: C; // by which it sorts
    width?: string; // the rest shares what is left
    hidden?: boolean; // for screen readers alone
}

export interface Sorting<C extends string> {
    column: C;
    descending: boolean;
    onSort: (column: C, descending: boolean) => void;
}

export function Table<C extends string>({
    label,
    heads,
    sorting,
    children,
}: {
    label: string;
    heads: Head<C>[];
    sorting?: Sorting<C>;
    children: ComponentChildren;
}) {
    return (
        <table class="pf-v6-c-table pf-m-compact pf-m-grid-lg dl-table" role="table" aria-label={label}>
            <thead class="pf-v6-c-table__thead" role="rowgroup">
                <tr class="pf-v6-c-table__tr" role="row">
                    {heads.map(head => (
                        <HeadCell key={head.name} head={head} sorting={sorting} />
                    ))}
                </tr>
            </thead>
            <tbody class="pf-v6-c-table__tbody" role="rowgroup">
                {children}
            </tbody>
        </table>
    );
}

function HeadCell<C extends string>({ head, sorting }: { head: Head<C>; sorting: Sorting<C> | undefined }) {
    const { column } = head;
    const style = { inlineSize: head.width ?? "auto" };
    if (!column || !sorting)
        return (
            <th class="pf-v6-c-table__th" role="columnheader" scope="col" style={style}>
                {head.hidden ? <span class="pf-v6-screen-reader">{head.name}</span> : head.name}
            </th>
        );
    const on = sorting.column === column;
    const order = !on ? "none" : sorting.descending ? "descending" : "ascending";
    return (
        <th
            class={`pf-v6-c-table__th pf-v6-c-table__sort ${on ? "pf-m-selected" : ""}`}
            style={style}
            role="columnheader"
            scope="col"
            aria-sort={order}
        >
            <button
                type="button"
                class="pf-v6-c-table__button"
                onClick={() => sorting.onSort(column, on ? !sorting.descending : false)}
            >
                <span class="pf-v6-c-table__button-content">
                    <span class="pf-v6-c-table__text">{head.name}</span>
                    <span class="pf-v6-c-table__sort-indicator">
                        <Icon name={on ? (sorting.descending ? "down" : "up") : "both"} />
                    </span>
                </span>
            </button>
        </th>
    );
}

export function Row({ children, selected = false }: { children: ComponentChildren; selected?: boolean }) {
    return (
        <tr class={"pf-v6-c-table__tr" + (selected ? " dl-selected" : "")} role="row">
            {children}
        </tr>
    );
}

/** flex: what is too long for the column is cut; wrap: it is broken into lines. */
export function Cell({
    name,
    children,
    kind = "",
}: {
    name: string;
    children?: ComponentChildren;
    kind?: "" | "flex" | "wrap" | "action";
}) {
    return (
        <td class={"pf-v6-c-table__td" + (kind ? " dl-" + kind : "")} role="cell" data-label={name}>
            {children}
        </td>
    );
}
