// What components share: the store, the place in the address, a clock, calls.

import { createContext } from "preact";
import { useCallback, useContext, useEffect, useReducer, useRef, useState } from "preact/hooks";

import { Place, formatPlace, parsePlace } from "../model/place";
import type { Store } from "../model/store";

export const StoreContext = createContext<Store>(null as unknown as Store);

/** The store; the component is drawn again when it changes. */
export function useStore(): Store {
    const store = useContext(StoreContext);
    const [, redraw] = useReducer((n: number) => n + 1, 0);
    useEffect(() => store.listen(() => redraw(0)), [store]);
    return store;
}

/** An address that can't be decoded is replaced by the page's own: else nothing would be drawn at all. */
function here(): Place {
    try {
        return parsePlace(cockpit.location.path, cockpit.location.options);
    } catch (error) {
        if (!(error instanceof URIError)) throw error;
        window.history.replaceState(null, "", "#/");
        return parsePlace([], {});
    }
}

/** The place, and how to go to another: with a step back in the browser's history, or without. */
export function usePlace(): [Place, (change: Partial<Place>, step?: boolean) => void] {
    const [place, setPlace] = useState(here);
    useEffect(() => {
        const changed = () => setPlace(here());
        cockpit.addEventListener("locationchanged", changed);
        return () => cockpit.removeEventListener("locationchanged", changed);
    }, []);
    const go = useCallback((change: Partial<Place>, step = true) => {
        const { path, options } = formatPlace({ ...here(), ...change });
        if (step) cockpit.location.go(path, options);
        else cockpit.location.replace(path, options);
        setPlace(here());
    }, []);
    return [place, go];
}

/** The time, each so many milliseconds. */
export function useClock(every: number): number {
    const [now, setNow] = useState(() => Date.now());
    useEffect(() => {
        const timer = setInterval(() => setNow(Date.now()), every);
        return () => clearInterval(timer);
    }, [every]);
    return now;
}

export interface Loaded<T> {
    value: T | null;
    error: unknown;
    busy: boolean;
    again: () => void;
}

/** What a call gives, for as long as the key is the same; asked again each so many milliseconds, if any. */
export function useCall<T>(key: string, call: () => Promise<T>, every = 0): Loaded<T> {
    const [state, setState] = useState<{ key: string; value: T | null; error: unknown; busy: boolean }>({
        key,
        value: null,
        error: null,
        busy: true,
    });
    const latest = useRef(call);
    latest.current = call;
    const [turn, again] = useReducer((n: number) => n + 1, 0);
    useEffect(() => {
        let current = true;
        let timer: ReturnType<typeof setTimeout> | undefined;
        const ask = async () => {
            try {
                const value = await latest.current();
                if (current) setState({ key, value, error: null, busy: false });
            } catch (error) {
                if (current)
                    setState(before => ({
                        key,
                        value: before.key === key ? before.value : null,
                        error,
                        busy: false,
                    }));
            }
            if (current && every > 0) timer = setTimeout(() => void ask(), every);
        };
        void ask();
        return () => {
            current = false;
            clearTimeout(timer);
        };
    }, [key, turn, every]);
    const fresh = state.key === key;
    return {
        value: fresh ? state.value : null,
        error: fresh ? state.error : null,
        busy: !fresh || state.busy,
        again: () => again(0),
    };
}
