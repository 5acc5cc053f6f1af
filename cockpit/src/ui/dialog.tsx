// The frame of every dialog: the browser's own, which keeps the focus, closes with
// Escape and gives the focus back. An error of what was asked for stays in it.

import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";

import { words } from "../bus/errors";
import { _ } from "../text";
import { Alert, Button } from "./parts";

export interface DialogProps {
    title: string;
    verb: string;
    danger?: boolean;
    ready?: boolean;
    act: () => Promise<void>;
    onClose: () => void;
    onError?: (error: unknown) => void;
    children?: ComponentChildren;
}

export function Dialog({ title, verb, danger = false, ready = true, act, onClose, onError, children }: DialogProps) {
    const box = useRef<HTMLDialogElement>(null);
    const titleId = useId();
    const [busy, setBusy] = useState(false);
    const [error, setError] = useState<unknown>(null);
    useEffect(() => {
        const before = document.activeElement;
        const dialog = box.current;
        dialog?.showModal();
        return () => {
            // As long as it is open nothing outside can have the focus.
            dialog?.close();
            if (before instanceof HTMLElement && before.isConnected) before.focus();
        };
    }, []);
    const submit = async (event: Event) => {
        event.preventDefault();
        if (busy || !ready) return;
        setBusy(true);
        setError(null);
        try {
            await act();
            onClose();
        } catch (failure) {
            setError(failure);
            setBusy(false);
            onError?.(failure);
        }
    };
    return (
        <dialog
            ref={box}
            class="pf-v6-c-modal-box pf-m-sm dl-dialog"
            aria-labelledby={titleId}
            onCancel={event => {
                event.preventDefault();
                if (!busy) onClose();
            }}
        >
            <form onSubmit={event => void submit(event)}>
                <header class="pf-v6-c-modal-box__header">
                    <div class="pf-v6-c-modal-box__header-main">
                        <h1 class="pf-v6-c-modal-box__title" id={titleId}>
                            {title}
                        </h1>
                    </div>
                </header>
                <div class="pf-v6-c-modal-box__body">
                    {error !== null && (
                        <Alert live tone="danger" title={_("That did not work")}>
                            <bdi class="dl-foreign">{words(error)}</bdi>
                        </Alert>
                    )}
                    {children}
                </div>
                <footer class="pf-v6-c-modal-box__footer">
                    <Button
                        type="submit"
                        kind={danger ? "danger" : "primary"}
                        busy={busy}
                        refused={ready ? undefined : _("Fill in the required fields first.")}
                        onClick={() => undefined}
                    >
                        {verb}
                    </Button>
                    <Button
                        kind="link"
                        onClick={() => {
                            if (!busy) onClose();
                        }}
                    >
                        {_("Cancel")}
                    </Button>
                </footer>
            </form>
        </dialog>
    );
}
