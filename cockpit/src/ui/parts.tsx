// Small parts of the page, in PatternFly's classes. Controls are the browser's own
// elements, so that keyboard and screen readers work without code of ours.

import type { ComponentChildren, JSX } from "preact";
import { useId } from "preact/hooks";

import type { Info } from "../bus/wire";
import { _, ago, format, fullTime, pieces, plain } from "../text";
import { useClock } from "./hooks";

type Children = { children?: ComponentChildren };

/** A name, owner or label of somebody else, isolated from the direction around it. */
export function Foreign({ text, empty = "" }: { text: string; empty?: string }) {
    if (text === "") return <span class="dl-muted">{empty}</span>;
    return (
        <bdi class="dl-foreign">
            {pieces(text).map((piece, index) =>
                piece.code ? (
                    <span key={index} class="dl-code">
                        {piece.code}
                    </span>
                ) : (
                    piece.text
                ),
            )}
        </bdi>
    );
}

/** A foreign text in one line; all of it in the title. */
export function Cut({ text }: { text: string }) {
    return (
        <span class="dl-cut" dir="auto" title={plain(text).slice(0, 1100)}>
            <Foreign text={text} />
        </span>
    );
}

export const paths = {
    warning: "M12 2 1 21h22L12 2zm1 15h-2v2h2v-2zm0-8h-2v6h2V9z",
    danger: "M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20zm1 15h-2v-2h2v2zm0-4h-2V7h2v6z",
    info: "M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20zm1 15h-2v-6h2v6zm0-8h-2V7h2v2z",
    ok: "M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20zm-2 15-5-5 1.4-1.4L10 14.2l7.6-7.6L19 8l-9 9z",
    close: "M19 6.4 17.6 5 12 10.6 6.4 5 5 6.4 10.6 12 5 17.6 6.4 19 12 13.4 17.6 19 19 17.6 13.4 12z",
    down: "M7 10l5 5 5-5z",
    up: "M7 14l5-5 5 5z",
    both: "M8 10l4-5 4 5zM8 14l4 5 4-5z",
    lock: "M17 9V7A5 5 0 0 0 7 7v2H5v12h14V9h-2zM9 7a3 3 0 0 1 6 0v2H9V7z",
    search: "M15.5 14h-.8l-.3-.3a6.5 6.5 0 1 0-.7.7l.3.3v.8l5 5 1.5-1.5-5-5zm-6 0a4.5 4.5 0 1 1 0-9 4.5 4.5 0 0 1 0 9z",
    clock: "M12 2a10 10 0 1 0 0 20 10 10 0 0 0 0-20zm1 11h-5v-2h3V6h2v7z",
    back: "M15.4 7.4 14 6l-6 6 6 6 1.4-1.4L10.8 12z",
    next: "M8.6 16.6 10 18l6-6-6-6-1.4 1.4 4.6 4.6z",
    node: "M4 4h16v6H4V4zm0 10h16v6H4v-6zm3-8v2h2V6H7zm0 10v2h2v-2H7z",
};

export function Icon({ name, flip = false }: { name: keyof typeof paths; flip?: boolean }) {
    return (
        <svg
            class={"dl-icon" + (flip ? " dl-flip" : "")}
            viewBox="0 0 24 24"
            width="1em"
            height="1em"
            fill="currentColor"
            aria-hidden="true"
            focusable="false"
        >
            <path d={paths[name]} />
        </svg>
    );
}

type ButtonProps = Children & {
    kind?: "primary" | "secondary" | "danger" | "link" | "plain";
    label?: string;
    busy?: boolean;
    /** Why it can't be pressed; the button stays reachable, and says so. */
    refused?: string | undefined;
    inline?: boolean;
} & Omit<JSX.IntrinsicElements["button"], "label">;

export function Button({
    kind = "secondary",
    label,
    busy,
    refused,
    inline,
    children,
    onClick,
    ...rest
}: ButtonProps) {
    const why = useId();
    const off = Boolean(refused) || Boolean(busy);
    return (
        <>
            <button
                type="button"
                {...rest}
                onClick={off ? event => event.preventDefault() : onClick}
                class={`pf-v6-c-button pf-m-${kind}${inline ? " pf-m-inline pf-m-small" : ""}${
                    off ? " pf-m-aria-disabled" : ""
                }`}
                aria-label={label}
                aria-disabled={off || undefined}
                title={refused}
                aria-describedby={refused ? why : undefined}
            >
                {busy && (
                    <span class="pf-v6-c-button__progress">
                        <Spinner small />
                    </span>
                )}
                <span class="pf-v6-c-button__text">{children}</span>
            </button>
            {refused && (
                <span id={why} hidden>
                    {refused}
                </span>
            )}
        </>
    );
}

export function Spinner({ small = false }: { small?: boolean }) {
    return (
        <svg
            class={"pf-v6-c-spinner" + (small ? " pf-m-md" : " pf-m-xl")}
            viewBox="0 0 100 100"
            role="progressbar"
            aria-label={_("Loading")}
        >
            <circle class="pf-v6-c-spinner__path" cx="50" cy="50" r="45" fill="none" />
        </svg>
    );
}

export type Tone = "danger" | "warning" | "info" | "success";

const toneIcon = { danger: "danger", warning: "warning", info: "info", success: "ok" } as const;

/** A message in its place on the page: never one that goes by itself. */
export function Alert({
    tone,
    title,
    children,
    onClose,
    actions,
    closeLabel,
    live = false,
}: Children & {
    tone: Tone;
    title: string;
    onClose?: () => void;
    actions?: ComponentChildren;
    closeLabel?: string;
    live?: boolean;
}) {
    const names = { danger: _("Danger:"), warning: _("Warning:"), info: _("Note:"), success: _("Done:") };
    return (
        <div class={`pf-v6-c-alert pf-m-inline pf-m-${tone}`} role={live ? "alert" : undefined}>
            <div class="pf-v6-c-alert__icon">
                <Icon name={toneIcon[tone]} />
            </div>
            <p class="pf-v6-c-alert__title">
                <span class="pf-v6-screen-reader">{names[tone]} </span>
                {title}
            </p>
            {onClose && (
                <div class="pf-v6-c-alert__action">
                    <button
                        type="button"
                        class="pf-v6-c-button pf-m-plain"
                        aria-label={closeLabel ?? _("Dismiss")}
                        onClick={onClose}
                    >
                        <span class="pf-v6-c-button__icon">
                            <Icon name="close" />
                        </span>
                    </button>
                </div>
            )}
            {children && <div class="pf-v6-c-alert__description">{children}</div>}
            {actions && <div class="pf-v6-c-alert__action-group">{actions}</div>}
        </div>
    );
}

export function Label({
    children,
    tone = "",
}: Children & { tone?: "" | "red" | "orange" | "green" | "blue" | "purple" }) {
    return (
        <span class={`pf-v6-c-label pf-m-compact${tone ? " pf-m-" + tone : ""}`}>
            <span class="pf-v6-c-label__content">
                <span class="pf-v6-c-label__text">{children}</span>
            </span>
        </span>
    );
}

export function Empty({
    icon,
    title,
    children,
    actions,
}: Children & {
    icon?: keyof typeof paths;
    title: string;
    actions?: ComponentChildren;
}) {
    return (
        <div class="pf-v6-c-empty-state">
            <div class="pf-v6-c-empty-state__content">
                <div class="pf-v6-c-empty-state__header">
                    {icon && (
                        <div class="pf-v6-c-empty-state__icon">
                            <Icon name={icon} />
                        </div>
                    )}
                    <div class="pf-v6-c-empty-state__title">
                        <h2 class="pf-v6-c-empty-state__title-text">{title}</h2>
                    </div>
                </div>
                {children && <div class="pf-v6-c-empty-state__body">{children}</div>}
                {actions && (
                    <div class="pf-v6-c-empty-state__footer">
                        <div class="pf-v6-c-empty-state__actions">{actions}</div>
                    </div>
                )}
            </div>
        </div>
    );
}

export function Loading({ text }: { text: string }) {
    return (
        <div class="pf-v6-c-empty-state" aria-busy="true">
            <div class="pf-v6-c-empty-state__content">
                <div class="pf-v6-c-empty-state__header">
                    <div class="pf-v6-c-empty-state__icon">
                        <Spinner />
                    </div>
                    <div class="pf-v6-c-empty-state__title">
                        <p class="pf-v6-c-empty-state__title-text">{text}</p>
                    </div>
                </div>
            </div>
        </div>
    );
}

export function Select({
    label,
    value,
    options,
    onChange,
}: {
    label: string;
    value: string;
    options: { value: string; text: string }[];
    onChange: (value: string) => void;
}) {
    return (
        <span class="pf-v6-c-form-control dl-select">
            <select aria-label={label} value={value} onChange={event => onChange(event.currentTarget.value)}>
                {options.map(option => (
                    <option key={option.value} value={option.value}>
                        {option.text}
                    </option>
                ))}
            </select>
            <span class="pf-v6-c-form-control__utilities">
                <span class="pf-v6-c-form-control__toggle-icon">
                    <Icon name="down" />
                </span>
            </span>
        </span>
    );
}

/** A time: how long ago, and in full where one points at it. */
export function Ago({ micros, empty = "" }: { micros: number; empty?: string }) {
    const now = useClock(10_000);
    if (!micros) return <span class="dl-muted">{empty}</span>;
    return (
        <time dateTime={new Date(micros / 1000).toISOString()} title={fullTime(micros)}>
            {ago(micros, now)}
        </time>
    );
}

export function Facts({ children }: Children) {
    return <dl class="pf-v6-c-description-list pf-m-horizontal pf-m-compact dl-facts">{children}</dl>;
}

export function Fact({ name, children }: Children & { name: string }) {
    return (
        <div class="pf-v6-c-description-list__group">
            <dt class="pf-v6-c-description-list__term">
                <span class="pf-v6-c-description-list__text">{name}</span>
            </dt>
            <dd class="pf-v6-c-description-list__description">
                <div class="pf-v6-c-description-list__text">{children}</div>
            </dd>
        </div>
    );
}

export function Card({
    title,
    actions,
    children,
    id,
}: Children & {
    title: ComponentChildren;
    actions?: ComponentChildren;
    id?: string;
}) {
    return (
        <section class="pf-v6-c-card dl-card" id={id}>
            <div class="pf-v6-c-card__header">
                <div class="pf-v6-c-card__header-main">
                    <h2 class="pf-v6-c-card__title-text">{title}</h2>
                </div>
                {actions && <div class="pf-v6-c-card__actions">{actions}</div>}
            </div>
            <div class="pf-v6-c-card__body">{children}</div>
        </section>
    );
}

// The name stands for itself, whatever direction the sentence around it has.
const isolated = (text: string): string => `\u2068${plain(text)}\u2069`;

/** What a node is called, where that is known, and its number. */
export function nodeText(node: number, info: Info | null): string {
    if (node === 0) return _("an unknown node");
    const name = nodeName(node, info);
    return name ? format(_("$0, node $1"), isolated(name), node) : format(_("node $0"), node);
}

export const nodeName = (node: number, info: Info | null): string =>
    (info && node === info.NodeID && info.NodeName) || info?.Nodes?.[node] || "";
