// Follows the shell's choice of light, dark or what the system prefers.

const style = "shell:style";
const dark = "pf-v6-theme-dark";

export function followTheme(): void {
    const system = window.matchMedia("(prefers-color-scheme: dark)");
    const apply = (chosen = localStorage.getItem(style) ?? "auto") => {
        const on = chosen === "dark" || (chosen === "auto" && system.matches);
        document.documentElement.classList.toggle(dark, on);
    };
    window.addEventListener("storage", event => {
        if (event.key === style) apply(event.newValue ?? "auto");
    });
    window.addEventListener("cockpit-style", event => {
        const detail: unknown = event instanceof CustomEvent ? event.detail : null;
        if (detail && typeof detail === "object" && "style" in detail) apply(String(detail.style));
    });
    system.addEventListener("change", () => apply());
    apply();
}

/** Sets language and direction of the document. */
export function followLanguage(): void {
    const root = document.documentElement;
    root.lang = (cockpit.language || "en").replace("_", "-");
    root.dir = cockpit.language_direction === "rtl" ? "rtl" : "ltr";
}
