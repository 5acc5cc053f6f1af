// The journal's messages of the service, with the lock that each is about.

export interface Entry {
    cursor: string;
    time: number; // microseconds since 1970
    priority: number;
    message: string;
    lockspace: string;
    resource: string;
    mode: string;
    owner: string;
    lost: boolean;
}

export const LOST = "2f2fea20ee4043e2b85455e2a5854cec";

const fields = ["MESSAGE", "MESSAGE_ID", "PRIORITY", "DLM_LOCKSPACE", "DLM_RESOURCE", "DLM_MODE", "DLM_OWNER"];

export const MOST = 1000;

/** The command that shows the last messages and goes on with new ones. */
export function journalCommand(resource: { lockspace: string; name: string } | null, lost: boolean): string[] {
    const about = resource ? [`DLM_LOCKSPACE=${resource.lockspace}`, `DLM_RESOURCE=${resource.name}`] : [];
    return [
        "journalctl",
        "--output=json",
        "--follow",
        "--no-tail",
        `--lines=${MOST}`,
        "--quiet",
        "--output-fields=" + fields.join(","),
        "_SYSTEMD_UNIT=dlmlockd.service",
        ...about,
        ...(lost ? ["MESSAGE_ID=" + LOST] : []),
    ];
}

/** A field that is no text comes as an array of its bytes; one given twice as an array of texts. */
function text(value: unknown): string {
    if (!Array.isArray(value)) return value === undefined || value === null ? "" : String(value);
    if (value.every(item => typeof item === "number"))
        return new TextDecoder().decode(Uint8Array.from(value as number[]));
    return text(value[0]);
}

export function entryOf(line: string): Entry | null {
    let raw: Record<string, unknown>;
    try {
        raw = JSON.parse(line) as Record<string, unknown>;
    } catch {
        return null;
    }
    return {
        cursor: text(raw["__CURSOR"]),
        time: Number(raw["__REALTIME_TIMESTAMP"] ?? 0),
        priority: Number(raw["PRIORITY"] ?? 6),
        message: text(raw["MESSAGE"]),
        lockspace: text(raw["DLM_LOCKSPACE"]),
        resource: text(raw["DLM_RESOURCE"]),
        mode: text(raw["DLM_MODE"]),
        owner: text(raw["DLM_OWNER"]),
        lost: text(raw["MESSAGE_ID"]) === LOST,
    };
}

/** Cuts a stream into lines; what has no end yet waits for more. */
export class Lines {
    private rest = "";

    take(data: string): string[] {
        const lines = (this.rest + data).split("\n");
        this.rest = lines.pop() ?? "";
        return lines.filter(line => line !== "");
    }
}
