// The drawing of "A waits for B": those that hold on one side, each arrow from a
// waiter to who is in its way. The list beside it says the same in words.

import { useId } from "preact/hooks";

import { Graph, Node } from "../model/chain";
import { _, plain } from "../text";

const WIDTH = 176;
const HEIGHT = 52;
const GAP_X = 56;
const GAP_Y = 16;
export const MOST_NODES = 40;

const short = (text: string, most: number): string => (text.length > most ? text.slice(0, most - 1) + "…" : text);

export function Drawing({ graph, nodeName }: { graph: Graph; nodeName: (node: number) => string }) {
    const arrow = useId();
    const mirrored = document.documentElement.dir === "rtl";
    const width = graph.columns * (WIDTH + GAP_X) - GAP_X + 4;
    const height = graph.rows * (HEIGHT + GAP_Y) - GAP_Y + 4;
    const left = (node: Node) => {
        const x = 2 + node.column * (WIDTH + GAP_X);
        return mirrored ? width - x - WIDTH : x;
    };
    const top = (node: Node) => 2 + node.row * (HEIGHT + GAP_Y);
    const byId = new Map(graph.nodes.map(node => [node.id, node]));
    return (
        <div class="dl-drawing" tabIndex={0} role="group" aria-label={_("Drawing of who waits for whom")}>
            <svg
                width={width}
                height={height}
                viewBox={`0 0 ${width} ${height}`}
                role="img"
                aria-label={_("Drawing of who waits for whom; the list says the same")}
            >
                <defs>
                    <marker
                        id={arrow}
                        viewBox="0 0 8 8"
                        refX="7"
                        refY="4"
                        markerWidth="8"
                        markerHeight="8"
                        orient="auto"
                    >
                        <path class="dl-arrow" d="M0 0 8 4 0 8z" />
                    </marker>
                </defs>
                {graph.edges.map(({ from, to }) => {
                    const a = byId.get(from)!;
                    const b = byId.get(to)!;
                    const start = mirrored ? left(a) + WIDTH : left(a);
                    const end = mirrored ? left(b) : left(b) + WIDTH;
                    const [y1, y2] = [top(a) + HEIGHT / 2, top(b) + HEIGHT / 2];
                    const half = (start + end) / 2;
                    return (
                        <path
                            key={from + to}
                            class="dl-edge"
                            marker-end={`url(#${arrow})`}
                            d={`M${start} ${y1}C${half} ${y1} ${half} ${y2} ${end} ${y2}`}
                        />
                    );
                })}
                {graph.nodes.map(node => (
                    <g key={node.id} transform={`translate(${left(node)} ${top(node)})`}>
                        <title>{plain(node.party.who)}</title>
                        <rect
                            class={node.column === 0 ? "dl-box dl-holds" : "dl-box"}
                            width={WIDTH}
                            height={HEIGHT}
                            rx="6"
                        />
                        <text class="dl-box-who" x={WIDTH / 2} y="21">
                            {short(plain(node.party.who) || _("somebody"), 22)}
                        </text>
                        <text class="dl-box-node" x={WIDTH / 2} y="39">
                            {short(`${node.party.mode} · ${nodeName(node.party.node)}`, 26)}
                        </text>
                    </g>
                ))}
            </svg>
        </div>
    );
}
