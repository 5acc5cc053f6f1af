// A browser for the tests, and what they ask of a page again and again.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { chromium } from "playwright-core";

import { Machine, cockpitDir, until } from "./machine.mjs";

export const artefacts = join(cockpitDir, "artefacts");

let browser;

export async function theBrowser() {
    const executablePath = process.env.CHROMIUM ?? "/usr/bin/chromium";
    assert.ok(existsSync(executablePath), `${executablePath} is missing: apt-get install chromium`);
    browser ??= await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
    return browser;
}

export async function closeBrowser() {
    await browser?.close();
    browser = undefined;
}

/**
 * Opens the page in a browser of its own. Whatever it says on the console as an
 * error, throws, or cannot find is a fault of the page.
 */
export async function open(
    machine,
    { width = 1280, height = 900, dark = false, locale = "en-US", hash = "", context } = {},
) {
    const own =
        context ??
        (await (
            await theBrowser()
        ).newContext({
            viewport: { width, height },
            locale,
            colorScheme: dark ? "dark" : "light",
            reducedMotion: "reduce",
        }));
    const page = await own.newPage();
    page.faults = [];
    page.on("pageerror", error => page.faults.push(String(error)));
    page.on("console", message => {
        if (message.type() === "error") page.faults.push(message.text());
    });
    page.on("response", response => {
        if (response.status() >= 400) page.faults.push(`${response.status()} ${response.url()}`);
    });
    page.on("dialog", dialog => {
        page.faults.push("dialog: " + dialog.message());
        void dialog.dismiss();
    });
    await page.goto(machine.address + (hash ? "#/" + hash : ""));
    await page.waitForSelector("h1");
    return page;
}

/** Runs a test on a machine of its own, with what is taken on it first; prints the machine's log where it fails. */
export function onMachine(options, work) {
    return async () => {
        const machine = await Machine.start(options);
        const pages = [];
        const openHere = async (settings = {}) => {
            const page = await open(machine, settings);
            pages.push(page);
            return page;
        };
        try {
            await work(machine, openHere);
            for (const page of pages) assert.deepEqual(page.faults, [], "what the page said on its console");
        } catch (error) {
            for (const [index, page] of pages.entries())
                if (!page.isClosed()) {
                    await shoot(page, `failed-${index}`).catch(() => undefined);
                    console.error((await page.textContent("body").catch(() => ""))?.slice(0, 1500), page.faults);
                }
            console.error(machine.log().slice(-4000));
            throw error;
        } finally {
            for (const context of new Set(pages.map(page => page.context())))
                await context.close().catch(() => undefined);
            await machine.stop();
        }
    };
}

export async function shoot(page, name) {
    await mkdir(artefacts, { recursive: true });
    await page.screenshot({ path: join(artefacts, name + ".png"), animations: "disabled" });
}

/** What is wider than the screen, or nothing. */
export async function fits(page, what) {
    const wide = await page.evaluate(() => {
        const width = document.documentElement.clientWidth;
        if (document.documentElement.scrollWidth <= width) return [];
        return [...document.querySelectorAll("body *")]
            .filter(element => element.getBoundingClientRect().right > width + 1)
            .slice(-3)
            .map(element => element.outerHTML.slice(0, 120));
    });
    assert.deepEqual(wide, [], `${what} is wider than the screen`);
}

/** A picture: all fits, and axe finds nothing. */
export async function look(page, layout, name) {
    await page.evaluate(() => document.activeElement?.blur?.());
    await shoot(page, `${name}-${layout}`);
    await fits(page, `${name} ${layout}`);
    await accessible(page, `${name} ${layout}`);
}

/** A state in five layouts, without loading the page again: from right to left it keeps its language. */
export async function lookAround(page, name) {
    const before = page.viewportSize();
    for (const [layout, [width, height]] of Object.entries({
        desktop: [1680, 1130],
        medium: [1040, 698],
        mobile: [320, 1200],
        dark: [1280, 900],
        rtl: [1280, 900],
    })) {
        await page.setViewportSize({ width, height });
        await page.emulateMedia({ colorScheme: layout === "dark" ? "dark" : "light" });
        await page.evaluate(dir => document.documentElement.setAttribute("dir", dir), layout === "rtl" ? "rtl" : "ltr");
        await until("the style", async () =>
            page.evaluate(
                dark => document.documentElement.classList.contains("pf-v6-theme-dark") === dark,
                layout === "dark",
            ),
        );
        await look(page, layout, name);
    }
    await page.evaluate(() => document.documentElement.setAttribute("dir", "ltr"));
    await page.setViewportSize(before);
}

let axe;

/** All of axe's rules, on what is to be seen now. */
export async function accessible(page, what) {
    axe ??= await readFile(join(cockpitDir, "node_modules/axe-core/axe.min.js"), "utf8");
    await page
        .evaluate(source => {
            if (!window.axe) (0, eval)(source);
        }, axe)
        .catch(async () => page.evaluate(axe));
    const found = await page.evaluate(async () => {
        const { violations } = await window.axe.run(document, { resultTypes: ["violations"] });
        return violations.map(
            ({ id, nodes }) =>
                `${id}: ${nodes
                    .slice(0, 3)
                    .map(node => node.html.slice(0, 160))
                    .join(" | ")}`,
        );
    });
    assert.deepEqual(found, [], `axe: ${what}`);
}

/** The first column of the table, in order, of a page or of a frame in one. */
export const firstColumn = page =>
    page
        .locator("tbody tr td:first-child")
        .evaluateAll(cells => cells.map(cell => cell.innerText.split("\n")[0]));

export const rows = (page, expected, what = "rows") =>
    until(`${what}: ${JSON.stringify(expected)}`, async () => {
        const got = await firstColumn(page);
        return JSON.stringify(got) === JSON.stringify(expected);
    }).catch(async error => {
        throw new Error(`${error.message}; there are ${JSON.stringify((await firstColumn(page)).slice(0, 20))}`);
    });

export const sees = (page, text) => page.getByText(text).first().waitFor({ state: "visible" });
export const press = (page, name, role = "button") => page.getByRole(role, { name, exact: true }).first().click();
export const dialogText = page => page.locator("dialog[open]").innerText();
