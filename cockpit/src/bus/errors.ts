// What went wrong, as a name to decide by and a text to show.

import { _ } from "../text";

const prefix = "org.example.DlmLock.Error.";

/** The last part of the error's name: LockspaceInUse, AccessDenied; or the problem of the channel. */
export function kind(error: unknown): string {
    const failure = error as cockpit.Failure;
    if (failure?.name)
        return failure.name.startsWith(prefix) ? failure.name.slice(prefix.length) : failure.name.split(".").at(-1)!;
    return failure?.problem ?? "";
}

/** The service's own words, or what the channel's problem means. */
export function words(error: unknown): string {
    const failure = error as cockpit.Failure;
    switch (failure?.problem) {
        case "access-denied":
            return _("This session has no administrative access. Turn it on in the top bar and try again.");
        case "not-found":
            return _("The lock service is not running.");
        case "timeout":
            return _("The lock service did not answer in time. The action may still be carried out.");
        case "disconnected":
        case "terminated":
            return _("The connection to this machine was lost. The action may have been carried out.");
    }
    return failure?.message || failure?.problem || String(error);
}
