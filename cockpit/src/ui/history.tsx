// What happened: the journal's messages of the service, newest first, and live.

import { useEffect, useReducer, useRef, useState } from "preact/hooks";

import { words } from "../bus/errors";
import { Entry, Lines, MOST, entryOf, journalCommand } from "../model/journal";
import { Pace } from "../model/pace";
import { _, counted, fullTime } from "../text";
import { usePlace, useStore } from "./hooks";
import { Alert, Button, Cut, Empty, Foreign, Label, Loading } from "./parts";
import { Cell, Row, Table } from "./table";

interface Journal {
    entries: Entry[];
    error: unknown;
    quiet: boolean; // the first answer is there, or has not come in time
}

/** Follows the journal for as long as the key is the same; another reader may see other messages. */
function useJournal(
    resource: { lockspace: string; name: string } | null,
    lost: boolean,
    reader: number,
): Journal {
    const [, redraw] = useReducer((n: number) => n + 1, 0);
    const journal = useRef<Journal>({ entries: [], error: null, quiet: false });
    const key = JSON.stringify([resource, lost, reader]);
    useEffect(() => {
        const now: Journal = { entries: [], error: null, quiet: false };
        journal.current = now;
        const pace = new Pace(() => redraw(0), 300);
        const lines = new Lines();
        const process = cockpit.spawn(journalCommand(resource, lost), { superuser: "try", err: "message" });
        const silence = setTimeout(() => {
            now.quiet = true;
            pace.ask();
        }, 1500);
        process.stream(data => {
            const fresh = lines
                .take(data)
                .map(entryOf)
                .filter(entry => entry !== null);
            now.entries = [...fresh.reverse(), ...now.entries].slice(0, MOST);
            now.quiet = true;
            pace.ask();
        });
        process.catch((error: unknown) => {
            if ((error as cockpit.Failure).problem === "cancelled") return;
            now.error = error;
            now.quiet = true;
            pace.ask();
        });
        redraw(0);
        return () => {
            clearTimeout(silence);
            pace.stop();
            process.close("cancelled");
        };
    }, [key]);
    return journal.current;
}

const FIRST = 100;

export function HistoryView() {
    const [place, go] = usePlace();
    const { entries, error, quiet } = useJournal(place.resource, place.lost, useStore().reader);
    const [shown, setShown] = useState(FIRST);
    const filter = place.resource ? (
        <>
            {_("Only the resource")}{" "}
            <b>
                <Foreign text={place.resource.name} />
            </b>{" "}
            {_("in the lockspace")}{" "}
            <b>
                <Foreign text={place.resource.lockspace} />
            </b>
        </>
    ) : place.lost ? (
        _("Only lost locks")
    ) : null;
    return (
        <>
            <div class="dl-toolbar">
                {filter && <span>{filter}</span>}
                {filter && (
                    <Button kind="link" inline onClick={() => go({ resource: null, lost: false })}>
                        {_("Show all")}
                    </Button>
                )}
                {!place.lost && !place.resource && (
                    <Button kind="secondary" inline onClick={() => go({ lost: true })}>
                        {_("Only lost locks")}
                    </Button>
                )}
            </div>
            {error !== null && (
                <Alert tone="warning" title={_("The journal could not be read")}>
                    <bdi>{words(error)}</bdi>
                </Alert>
            )}
            {entries.length === 0 &&
                error === null &&
                (quiet ? (
                    <Empty icon="clock" title={_("Nothing in the journal")}>
                        {_("The journal has no messages from the service, or this session is not allowed to read it.")}
                    </Empty>
                ) : (
                    <Loading text={_("Reading the journal")} />
                ))}
            {entries.length > 0 && <Entries entries={entries.slice(0, shown)} />}
            {entries.length > shown && (
                <Button onClick={() => setShown(shown + FIRST)}>{_("Show older ones")}</Button>
            )}
            {entries.length >= MOST && shown >= MOST && (
                <p class="dl-muted">
                    {counted("Only the last $0 message is shown.", "Only the last $0 messages are shown.", MOST)}
                </p>
            )}
        </>
    );
}

const level = (priority: number): { tone: "red" | "orange" | ""; text: string } =>
    priority <= 3
        ? { tone: "red", text: _("error") }
        : priority === 4
          ? { tone: "orange", text: _("warning") }
          : { tone: "", text: priority === 5 ? _("notice") : priority === 6 ? _("info") : _("debug") };

function Entries({ entries }: { entries: Entry[] }) {
    const [, go] = usePlace();
    const names = [_("Time"), _("Level"), _("Resource"), _("Message")];
    const name = (index: number) => names[index] ?? "";
    return (
        <Table
            label={_("History")}
            heads={names.map((text, index) => ({
                name: text,
                width: ["14rem", "7rem", "20%", "auto"][index] ?? "auto",
            }))}
        >
            {entries.map(entry => (
                <Row key={entry.cursor}>
                    <Cell name={name(0)}>{fullTime(entry.time)}</Cell>
                    <Cell name={name(1)}>
                        <Label tone={level(entry.priority).tone}>{level(entry.priority).text}</Label>
                    </Cell>
                    <Cell name={name(2)} kind="flex">
                        {entry.resource && (
                            <Button
                                kind="link"
                                inline
                                onClick={() =>
                                    go({
                                        tab: "locks",
                                        lost: false,
                                        resource: { lockspace: entry.lockspace, name: entry.resource },
                                    })
                                }
                            >
                                <Cut text={entry.resource} />
                            </Button>
                        )}
                    </Cell>
                    <Cell name={name(3)} kind="wrap">
                        <Foreign text={entry.message} />
                    </Cell>
                </Row>
            ))}
        </Table>
    );
}
