// What lab/cockpit_test.go has the browser see on the page of a node: the same in
// words on standard output, and in pictures: node lab.mjs ADDRESS PICTURES [shell]. A
// line on standard input says that node 3 is being fenced. With "shell", the page is
// looked at within Cockpit's shell as well.

import { mkdir } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { chromium } from "playwright-core";

const [, , address, pictures, withShell] = process.argv;
const directory = resolve(dirname(fileURLToPath(import.meta.url)), "../artefacts");
await mkdir(directory, { recursive: true });
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu"],
});
const patience = 120_000;
const page = await browser.newPage({ viewport: { width: 1280, height: 860 }, reducedMotion: "reduce" });
page.setDefaultTimeout(patience);
const shoot = (of, name) => of.screenshot({ path: join(directory, `${pictures}-${name}.png`), animations: "disabled" });
const sees = (of, text) => of.getByText(text).first().waitFor();
process.on("uncaughtException", async error => {
    console.log(String(error));
    await shoot(page, "failed").catch(() => undefined);
    console.log((await page.textContent("body").catch(() => ""))?.slice(0, 1500));
    process.exit(1);
});
const tab = (of, name) => of.locator("#tab-" + name).click();

await page.goto(address + "/cockpit/@localhost/dlmlock/index.html#/waiting");
await sees(page, "mail-standby");
for (const text of ["mail EX, node3, node 3", "db EX, node2, node 2"])
    await page.waitForFunction(part => document.body.innerText.replace(/[\u2068\u2069]/g, "").includes(part), text);
await shoot(page, "waiting");
let shell, inside;
if (withShell) {
    shell = await browser.newPage({ viewport: { width: 1280, height: 860 } });
    shell.setDefaultTimeout(patience);
    await shell.goto(address + "/dlmlock");
    inside = shell.frameLocator("iframe[name$='/dlmlock']");
    await inside.getByText("Cluster locks").first().waitFor();
    await tab(inside, "waiting");
    await sees(inside, "mail-standby");
    await shoot(shell, "shell");
}
console.log("loaded");

await lines.next();
await tab(page, "lockspaces");
await sees(page, "It grants no locks");
await page.waitForTimeout(1000);
await shoot(page, "fencing");
if (withShell) {
    await tab(inside, "lockspaces");
    await sees(inside, "It grants no locks");
    await shoot(shell, "fencing-shell");
}
await tab(page, "waiting");
await sees(page, "mail-standby");
await shoot(page, "fencing-waiting");
console.log("stopped");

await page.getByText("stopped").first().waitFor({ state: "detached" });
await page.waitForFunction(() => !document.body.innerText.includes("mail-standby"));
await tab(page, "locks");
await sees(page, "mail-standby"); // which has the lock of the fenced node now
await shoot(page, "recovered");
console.log("recovered");
await browser.close();
