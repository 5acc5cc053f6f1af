// What this page uses of Cockpit's API (base1/cockpit.js), from its documentation
// and from what versions 287 and 337 do. It is no complete description.

declare namespace cockpit {
    /** A value with its type, as the bridge sends a variant. */
    interface Variant {
        t: string;
        v: unknown;
    }

    /** What a failed call, process or channel rejects with. */
    interface Failure {
        name?: string;
        problem?: string | null;
        message?: string;
        exit_status?: number | null;
    }

    interface DBusOptions {
        bus?: "system" | "session" | "none";
        address?: string;
        superuser?: "require" | "try";
        track?: boolean;
    }

    interface CallOptions {
        type?: string;
        timeout?: number;
    }

    interface SubscribeMatch {
        interface?: string;
        path?: string;
        path_namespace?: string;
        member?: string;
        arg0?: string;
    }

    interface DBusClient {
        call(
            path: string,
            iface: string,
            member: string,
            args?: unknown[] | null,
            options?: CallOptions,
        ): Promise<unknown[]>;
        subscribe(
            match: SubscribeMatch,
            callback: (path: string, iface: string, signal: string, args: unknown[]) => void,
            rule?: boolean,
        ): { remove(): void };
        wait(): Promise<void>;
        close(problem?: string): void;
        addEventListener(event: "close", callback: (event: unknown, options: Failure) => void): void;
        addEventListener(event: "owner", callback: (event: unknown, owner: string | null) => void): void;
    }

    interface Process extends Promise<string> {
        stream(callback: (data: string) => void): Process;
        close(problem?: string): void;
    }

    interface SpawnOptions {
        superuser?: "require" | "try";
        err?: "out" | "ignore" | "message";
        environ?: string[];
    }

    interface Location {
        readonly path: string[];
        readonly options: Record<string, string | string[]>;
        go(path: string[], options?: Record<string, string>): void;
        replace(path: string[], options?: Record<string, string>): void;
    }

    interface Permission {
        allowed: boolean | null;
        addEventListener(event: "changed", callback: () => void): void;
        close(): void;
    }

    const location: Location;
    const language: string;
    const language_direction: string | undefined;
    const transport: { host: string };

    function dbus(name: string | null, options?: DBusOptions): DBusClient;
    function spawn(args: string[], options?: SpawnOptions): Process;
    function user(): Promise<{ name: string }>;
    function permission(options: { admin?: boolean }): Permission;
    function addEventListener(event: "locationchanged", callback: () => void): void;
    function removeEventListener(event: "locationchanged", callback: () => void): void;
    function gettext(text: string): string;
    function ngettext(one: string, many: string, count: number): string;
    function translate(): void;
}
