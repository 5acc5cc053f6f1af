// A user who is not root logs in: through cockpit-ws, PAM and Cockpit's own shell, and
// gets administrative access by sudo, as on a real machine.

import assert from "node:assert/strict";
import { after, test } from "node:test";

import { LOGIN, until } from "./machine.mjs";
import { closeBrowser, onMachine, rows, theBrowser } from "./page.mjs";

after(closeBrowser);

async function logIn(page, password) {
    await page.fill("#login-user-input", LOGIN.user);
    await page.fill("#login-password-input", password);
    await page.click("#login-button");
}

test(
    "a user logs in, looks, gets administrative access, releases a lock, and drops it again",
    onMachine({ login: true }, async machine => {
        await machine.ctl("join", "vms");
        await machine.ctl("acquire", "vms", "disk1", "EX", "--owner=web");
        await machine.ctl("acquire", "vms", "disk2", "EX", "--owner=web");
        const context = await (await theBrowser()).newContext({ viewport: { width: 1280, height: 900 } });
        const page = await context.newPage();
        await page.goto(new URL("/dlmlock", machine.address).href);
        await logIn(page, "wrong");
        await page.getByText("Wrong user name or password").waitFor();
        await logIn(page, LOGIN.password);
        const inside = page.frameLocator("iframe[name$='/dlmlock']");
        // The shell has it twice, for narrow screens as well.
        const access = text => page.locator(`:is(a, button):visible:has-text("${text}")`);
        const release = name => inside.getByRole("button", { name: `Release ${name}`, exact: true });

        await rows(inside, ["disk2", "disk1"]);
        await inside.getByText("Read-only").first().waitFor();
        assert.equal(await release("disk1").getAttribute("aria-disabled"), "true");
        await release("disk1").click({ force: true });
        assert.equal(await inside.locator("dialog").count(), 0);

        await access("Limited access").click();
        await page.getByRole("dialog").locator("input[type=password]").fill(LOGIN.password);
        await page.getByRole("dialog").getByRole("button", { name: "Authenticate" }).click();
        await access("Administrative access").waitFor();
        await inside.getByText("Read-only").first().waitFor({ state: "detached" });
        await rows(inside, ["disk2", "disk1"]);
        await release("disk1").click();
        const dialog = inside.locator("dialog[open]");
        await dialog.getByRole("button", { name: "Release", exact: true }).click();
        await rows(inside, ["disk2"]);
        await until("the log says who it was", () =>
            new RegExp(`op=release.*disk1.*uid=0.*reason="[^"]*Cockpit: ${LOGIN.user}"`).test(machine.service.log),
        );

        await access("Administrative access").click();
        await page.getByRole("dialog").getByRole("button", { name: "Limit access" }).click();
        await inside.getByText("Read-only").first().waitFor();
        await until("the button is off", async () => (await release("disk2").getAttribute("aria-disabled")) === "true");
        await machine.ctl("acquire", "vms", "disk3", "EX", "--owner=web");
        await rows(inside, ["disk3", "disk2"]);
        await context.close();
    }),
);
