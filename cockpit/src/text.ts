// Text: translation, and names of others made safe to look at.
//
// Names, labels and owners come from whoever took a lock. They are never markup
// here; what remains is text that deceives: control characters, and characters
// that turn the direction of what follows. Both are shown as what they are.

export const _ = (text: string): string => cockpit.gettext(text);
export const ngettext = (one: string, many: string, count: number): string => cockpit.ngettext(one, many, count);

/** Replaces $0, $1, ... of a translated text. */
export function format(text: string, ...values: (string | number)[]): string {
    return text.replace(/\$(\d)/g, (_match, n: string) => String(values[Number(n)] ?? ""));
}

/** A text in which n things are counted; $0 is the number in the user's digits. */
export function counted(one: string, many: string, n: number, ...more: (string | number)[]): string {
    return format(ngettext(one, many, n), numbers(n), ...more);
}

export interface Piece {
    text: string;
    code?: string; // set where text stands for a character that cannot be shown
}

// C0, DEL, C1, soft hyphen, Arabic letter mark, Mongolian separator, zero-width
// and direction characters, separators, invisible operators, variation selectors,
// byte order mark, interlinear annotations, tags, halves of a pair.
const hidden = new RegExp(
    "[\\u0000-\\u001f\\u007f-\\u009f\\u00ad\\u034f\\u061c\\u115f\\u1160\\u17b4\\u17b5\\u180e" +
        "\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff9-\\ufffb]" +
        "|[\\u{e0000}-\\u{e0fff}]|\\p{Surrogate}",
    "gu",
);

const code = (char: string): string => "U+" + (char.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0");

/** Cuts a foreign text into what can be shown and the names of what cannot. */
export function pieces(text: string): Piece[] {
    const out: Piece[] = [];
    let at = 0;
    for (const match of text.matchAll(hidden)) {
        if (match.index > at) out.push({ text: text.slice(at, match.index) });
        out.push({ text: match[0], code: code(match[0]) });
        at = match.index + match[0].length;
    }
    if (at < text.length) out.push({ text: text.slice(at) });
    return out;
}

/** The same as plain text, for titles and names of elements. */
export function plain(text: string): string {
    return pieces(text)
        .map(piece => (piece.code ? `[${piece.code}]` : piece.text))
        .join("");
}

let numberFormat: Intl.NumberFormat | undefined;
let timeFormat: Intl.DateTimeFormat | undefined;
let relativeFormat: Intl.RelativeTimeFormat | undefined;

const locale = (): string => (cockpit.language || "en").replace("_", "-");

export function numbers(n: number): string {
    numberFormat ??= new Intl.NumberFormat(locale());
    return numberFormat.format(n);
}

/** A time in microseconds since 1970, in full. */
export function fullTime(micros: number): string {
    timeFormat ??= new Intl.DateTimeFormat(locale(), { dateStyle: "medium", timeStyle: "medium" });
    return timeFormat.format(micros / 1000);
}

const units: [Intl.RelativeTimeFormatUnit, number][] = [
    ["day", 86400],
    ["hour", 3600],
    ["minute", 60],
    ["second", 1],
];

/** How long ago that was, in one unit. */
export function ago(micros: number, now = Date.now()): string {
    relativeFormat ??= new Intl.RelativeTimeFormat(locale(), { numeric: "always", style: "short" });
    const seconds = Math.max(0, Math.round(now / 1000 - micros / 1e6));
    const [unit, size] = units.find(([, size]) => seconds >= size) ?? ["second", 1];
    return relativeFormat.format(-Math.floor(seconds / size), unit);
}
