// How often the page is drawn: at once after quiet, and at most so often under a
// flood. A frame is not waited for where the tab is hidden, for it would not come.

export class Pace {
    private timer: number | undefined;
    private last = -Infinity;

    constructor(
        private readonly work: () => void,
        private readonly gap: number,
        private readonly now: () => number = () => performance.now(),
    ) {}

    /** Runs the work soon: once, however often it is asked for before. */
    ask(): void {
        if (this.timer !== undefined) return;
        const wait = Math.max(0, this.last + this.gap - this.now());
        this.timer = globalThis.setTimeout(() => {
            this.timer = undefined;
            this.last = this.now();
            this.work();
        }, wait) as unknown as number;
    }

    stop(): void {
        clearTimeout(this.timer);
        this.timer = undefined;
    }
}
