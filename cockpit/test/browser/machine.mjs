// A machine of its own for each test: a message bus of type system with the shipped
// policy, the real dlmlockd on its embedded engine, and cockpit-ws with a bridge.
// Everything lies below one temporary directory and ends with it.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmod, copyFile, cp, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

export const cockpitDir = resolve(dirname(fileURLToPath(import.meta.url)), "../..");
export const root = resolve(cockpitDir, "..");
const exec = promisify(execFile);

/** Runs a program; its error says what it said, not all that it was asked. */
async function run(program, args, options) {
    try {
        return await exec(program, args, options);
    } catch (error) {
        throw new Error(`${program} ${args.slice(0, 12).join(" ")}: ${error.stderr ?? error.message}`);
    }
}
const NAME = "org.example.DlmLock";

/** Who may log in on a machine with logins. */
export const LOGIN = { user: "locker", password: "the lock is open" };

/** Where Cockpit lies: installed, or unpacked below COCKPIT_ROOT. */
function cockpitFiles(installed) {
    const base = installed ? "" : (process.env.COCKPIT_ROOT ?? "");
    return {
        ws: (base || "") + "/usr/lib/cockpit/cockpit-ws",
        bridge: (base || "") + "/usr/bin/cockpit-bridge",
        environment: base
            ? { XDG_DATA_DIRS: base + "/usr/share", PYTHONPATH: base + "/usr/lib/python3/dist-packages" }
            : {},
    };
}

const busConfig = dir => `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=${dir}/bus</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
    <allow send_destination="org.freedesktop.DBus"/>
  </policy>
  <includedir>${dir}/system.d</includedir>
</busconfig>
`;

/** Asks until it is so, and fails with what was waited for. */
export async function until(what, ask, ms = 30_000) {
    const end = Date.now() + ms;
    for (;;) {
        const got = await Promise.resolve(ask()).catch(() => false);
        if (got) return got;
        if (Date.now() > end) throw new Error(`${what}: not within ${ms} ms`);
        await new Promise(resolve => setTimeout(resolve, 25));
    }
}

async function freePort() {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address();
    server.close();
    await once(server, "close");
    return port;
}

export class Machine {
    processes = [];
    configuration = "";

    static async start(options = {}) {
        const machine = new Machine();
        machine.dir = await mkdtemp(join(tmpdir(), "cockpit-dlmlock-"));
        try {
            await machine.prepare(options);
        } catch (error) {
            await machine.stop();
            throw error;
        }
        return machine;
    }

    async prepare({ service = true, user = null, login = false, language = "", config = "", pages = [] } = {}) {
        await chmod(this.dir, 0o755);
        this.user = user;
        this.login = login; // cockpit-ws asks for a name and a password, and shows Cockpit's shell
        this.language = language;
        this.pages = pages; // of Cockpit's own: shown although what they are for is not installed
        this.environment = {
            ...process.env,
            DBUS_SYSTEM_BUS_ADDRESS: `unix:path=${this.dir}/bus`,
            // Without one the bridge starts a session bus, which outlives it.
            DBUS_SESSION_BUS_ADDRESS: `unix:path=${this.dir}/bus`,
            LC_ALL: "C.UTF-8",
        };
        await mkdir(join(this.dir, "system.d"));
        await copyFile(join(root, `data/${NAME}.conf`), join(this.dir, `system.d/${NAME}.conf`));
        await writeFile(join(this.dir, "bus.conf"), busConfig(this.dir));
        await this.startBus();
        await writeFile(join(this.dir, "dlmlockd.toml"), config);
        await this.fakeCommands();
        if (service) await this.startService();
        await this.startCockpit();
    }

    spawn(command, args, options = {}) {
        const child = spawn(command, args, { env: this.environment, stdio: ["ignore", "pipe", "pipe"], ...options });
        child.log = "";
        for (const stream of [child.stdout, child.stderr])
            stream?.on("data", data => {
                child.log = (child.log + data).slice(-20_000);
            });
        child.ended = new Promise(resolve => child.on("exit", resolve));
        child.on("error", error => {
            child.log += error;
        });
        this.processes.push(child);
        return child;
    }

    async end(child, signal = "SIGTERM") {
        if (child.exitCode === null && child.signalCode === null && child.pid) child.kill(signal);
        else return;
        await child.ended;
    }

    async startBus() {
        this.bus = this.spawn("dbus-daemon", [`--config-file=${this.dir}/bus.conf`, "--nofork", "--nopidfile"]);
        await until("the bus", () => this.busctl("--no-pager", "list"));
    }

    busctl(...args) {
        return run("busctl", args, { env: this.environment, maxBuffer: 64 << 20 });
    }

    /** The journal and systemctl of this machine, which has no systemd. */
    async fakeCommands() {
        const bin = join(this.dir, "bin");
        await mkdir(bin);
        const journal = join(cockpitDir, "test/browser/journalctl");
        await symlink(journal, join(bin, "journalctl"));
        await writeFile(
            join(bin, "systemctl"),
            `#!/bin/sh\n[ "$1 $2" = "start dlmlockd.service" ] || exit 1\n` +
                `touch ${this.dir}/start-asked\n` +
                `for i in $(seq 600); do [ -e ${this.dir}/started ] && exit 0; sleep 0.05; done\n` +
                `echo "no such unit" >&2; exit 5\n`,
        );
        await chmod(join(bin, "systemctl"), 0o755);
        await writeFile(join(this.dir, "journal"), "");
        this.environment.PATH = bin + ":" + process.env.PATH;
        this.environment.DLMLOCK_TEST_JOURNAL = join(this.dir, "journal");
    }

    async startService() {
        this.service = this.spawn(process.env.DLMLOCKD ?? join(root, "bin/dlmlockd"), [
            "--engine=local",
            `--config=${this.dir}/dlmlockd.toml`,
            `--state-dir=${this.dir}/state`,
        ]);
        await until("dlmlockd", () => this.busctl("status", NAME));
    }

    async killService() {
        await this.end(this.service, "SIGKILL");
    }

    async startCockpit() {
        const { ws, bridge, environment } = cockpitFiles(this.login);
        this.port = await freePort();
        const home = join(this.dir, "home");
        // Where a bridge that was started by a login looks for pages of its user's own.
        const data = this.login ? join(home, ".local/share") : join(this.dir, "data");
        await mkdir(join(data, "cockpit"), { recursive: true });
        await cp(process.env.COCKPIT_PAGE ?? join(cockpitDir, "dist"), join(data, "cockpit/dlmlock"), {
            recursive: true,
        });
        // The service's file for the bus is not installed here, which the page asks for.
        const manifest = join(data, "cockpit/dlmlock/manifest.json");
        const text = await readFile(manifest, "utf8");
        await writeFile(manifest, text.replace("/usr/share/dbus-1/system-services", join(root, "data")));
        for (const page of this.pages) {
            const own = join(data, "cockpit", page);
            await cp(join(process.env.COCKPIT_ROOT, "usr/share/cockpit", page), own, { recursive: true });
            const manifest = JSON.parse(await readFile(join(own, "manifest.json"), "utf8"));
            await writeFile(join(own, "manifest.json"), JSON.stringify({ ...manifest, conditions: [] }));
        }
        await mkdir(home, { recursive: true });
        await chmod(home, 0o777);
        if (this.login) await this.prepareLogin(data);
        const env = {
            ...this.environment,
            ...environment,
            XDG_DATA_HOME: data,
            HOME: home,
            XDG_CONFIG_HOME: home,
            XDG_RUNTIME_DIR: home,
        };
        const command = [ws, "--no-tls", "--address", "127.0.0.1", "--port", String(this.port)];
        if (this.login) command.unshift("unshare", "--mount", join(this.dir, "login"));
        else command.push(`--local-session=${bridge}`);
        if (this.user !== null)
            command.unshift("setpriv", "--reuid", String(this.user), "--regid", String(this.user), "--clear-groups");
        this.ws = this.spawn(command[0], command.slice(1), { env });
        this.address = `http://127.0.0.1:${this.port}/cockpit/@localhost/dlmlock/index.html`;
        await until("cockpit-ws", async () => (await fetch(`http://127.0.0.1:${this.port}/`)).status > 0);
    }

    /**
     * Has a user who may log in, and who gets to be root by sudo and his password: in
     * files that cockpit-ws and what it starts see in place of this machine's. The user
     * has the number of nobody, which the bus knows.
     */
    async prepareLogin(data) {
        const unpacked = process.env.COCKPIT_ROOT ?? join(root, "bin/cockpit-shell");
        await cp(join(unpacked, "usr/share/cockpit/shell"), join(data, "cockpit/shell"), { recursive: true });
        const { stdout } = await run("openssl", ["passwd", "-6", LOGIN.password]);
        const etc = join(this.dir, "etc");
        await mkdir(etc);
        const first = async (name, line) => line + "\n" + (await readFile(join("/etc", name), "utf8"));
        const files = {
            passwd: [0o644, await first("passwd", `${LOGIN.user}:x:65534:65534::${this.dir}/home:/bin/sh`)],
            shadow: [0o600, await first("shadow", `${LOGIN.user}:${stdout.trim()}:19000:0:99999:7:::`)],
            sudoers: [0o440, `Defaults env_keep += PYTHONPATH\n${LOGIN.user} ALL=(ALL) ALL\n`],
            // Without a session bus the newer bridge ends.
            "security/pam_env.conf": [
                0o644,
                "DBUS_SESSION_BUS_ADDRESS DEFAULT=unix:path=/run/dbus/system_bus_socket\n" +
                    (process.env.COCKPIT_ROOT ? `PYTHONPATH DEFAULT=${unpacked}/usr/lib/python3/dist-packages\n` : ""),
            ],
        };
        const mounts = process.env.COCKPIT_ROOT
            ? ["/usr/lib/cockpit", "/usr/share/cockpit", "/usr/bin/cockpit-bridge"].map(path => [unpacked + path, path])
            : [];
        for (const [name, [mode, text]] of Object.entries(files)) {
            const own = join(etc, name.replace("/", "-"));
            await writeFile(own, text, { mode });
            mounts.push([own, join("/etc", name)]);
        }
        const script = ["#!/bin/sh -e"];
        // A login runs the Cockpit that is installed: the one that was unpacked is mounted over it.
        script.push(
            ...mounts.map(([own, path]) => `mount --bind ${own} ${path}`),
            "mount -t tmpfs -o mode=755 tmpfs /run",
            "mkdir /run/dbus /run/cockpit",
            "touch /run/dbus/system_bus_socket",
            `mount --bind ${this.dir}/bus /run/dbus/system_bus_socket`,
            // What cockpit-session.socket does for newer versions; it ends with cockpit-ws.
            "setpriv --pdeathsig KILL systemd-socket-activate --accept --inetd --listen=/run/cockpit/session " +
                "/usr/lib/cockpit/cockpit-session &",
            "until [ -S /run/cockpit/session ]; do sleep 0.05; done",
            'exec "$@"',
        );
        await writeFile(join(this.dir, "login"), script.join("\n") + "\n", { mode: 0o755 });
    }

    /** dlmlockctl, as another client of the service. */
    ctl(...args) {
        return run(process.env.DLMLOCKCTL ?? join(root, "bin/dlmlockctl"), args, { env: this.environment });
    }

    /** A client that waits for a lock until it is ended. */
    waiter(...args) {
        return this.spawn(process.env.DLMLOCKCTL ?? join(root, "bin/dlmlockctl"), [
            "acquire",
            ...args,
            "--wait=forever",
        ]);
    }

    call(member, ...args) {
        return this.busctl("call", "--timeout=60", NAME, "/org/example/DlmLock", NAME, member, ...args);
    }

    /** Takes many locks of one owner in one call after another. */
    async takeMany(lockspace, owner, count, from = 0, mode = "EX", label = "") {
        for (let start = from; start < from + count; start += 1000) {
            const wanted = [];
            for (let i = start; i < Math.min(start + 1000, from + count); i++)
                wanted.push(lockspace, `${owner}-${i}`, mode);
            await this.call(
                "AcquireMany",
                "a(sss)a{sv}",
                String(wanted.length / 3),
                ...wanted,
                "2",
                "owner",
                "s",
                owner,
                "label",
                "s",
                label,
            );
        }
    }

    log() {
        return this.processes.map(child => `--- ${child.spawnfile}\n${child.log}`).join("\n");
    }

    async stop() {
        for (const child of this.processes.reverse()) await this.end(child, "SIGKILL");
        await rm(this.dir, { recursive: true, force: true });
    }

    read(name) {
        return readFile(join(this.dir, name), "utf8");
    }
}
