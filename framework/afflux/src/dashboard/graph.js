// The graph of a job: dagre places the operators, SVG shows them.
import dagre from "./vendor/dagre.js";
import { html, useEffect, useMemo, useRef, useState } from "./vendor/htm-preact.js";
import { ask } from "./feed.js";
import { clock, percent, short, span, State, Table, time, Times, useAsked, whole } from "./parts.js";

const WIDTH = 216;
const HEIGHT = 96;
const NAME_CHARS = 22;

// Where operators and exchanges are. Long graphs take the faster way to rank.
export function layout(operators, edges) {
  const graph = new dagre.graphlib.Graph();
  graph.setGraph({ rankdir: "LR", nodesep: 22, ranksep: 54, marginx: 8, marginy: 16, ranker: operators.length > 60 ? "tight-tree" : "network-simplex" });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const { name } of operators) graph.setNode(name, { width: WIDTH, height: HEIGHT });
  for (const { from, to } of edges) graph.setEdge(from, to);
  dagre.layout(graph);
  const { width, height } = graph.graph();
  return {
    width: Math.max(width || 0, WIDTH),
    height: Math.max(height || 0, HEIGHT),
    nodes: new Map(operators.map(({ name }) => [name, graph.node(name)])),
    edges: edges.map(({ from, to }) => (graph.edge(from, to) || {}).points || []),
  };
}

const cut = (name) => (name.length > NAME_CHARS ? `${name.slice(0, NAME_CHARS - 1)}…` : name);
const path = (points) => points.map(({ x, y }, at) => `${at ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
// From 1.5 to 9 points, by the logarithm of the rate.
const thick = (rate) => 1.5 + Math.min(7.5, 1.25 * Math.log10(1 + (rate || 0)));

function Operator({ of, at, slow, chosen, choose }) {
  const inner = WIDTH - 24;
  const x = at.x - WIDTH / 2;
  const y = at.y - HEIGHT / 2;
  const [busy, wait] = [inner * of.busy, inner * of.backpressured];
  const key = (event) => {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      choose(of.name);
    }
  };
  return html`<g class="operator ${slow ? "slow" : ""} ${chosen ? "chosen" : ""}" transform=${`translate(${x} ${y})`} tabindex="0" role="button" data-operator=${of.name} onClick=${() => choose(of.name)} onKeyDown=${key}>
    <rect class="box" width=${WIDTH} height=${HEIGHT} rx="6" />
    <text class="name" x="12" y="20">${cut(of.name)}</text>
    <text class="more" x=${WIDTH - 12} y="20" text-anchor="end">×${of.tasks}</text>
    <text class="more" x="12" y="39">in ${short(of.in_rate)}/s · out ${short(of.out_rate)}/s</text>
    <rect class="idle" x="12" y="48" width=${inner} height="9" />
    <rect class="busy" x="12" y="48" width=${busy} height="9" />
    <rect class="wait" fill="url(#stripes)" x=${12 + busy} y="48" width=${wait} height="9" />
    <text class="more" x="12" y="72">busy ${percent(of.busy)} · waits ${percent(of.backpressured)}</text>
    <text class="more" x="12" y="88">${of.lag_ms == null ? "no watermark yet" : `watermark ${span(of.lag_ms / 1000)} behind`}</text>
    ${slow && html`<text class="badge" x=${WIDTH / 2} y="-5" text-anchor="middle">▲ holds the others up</text>`}
  </g>`;
}

export function Graph({ job, chosen, choose }) {
  const shape = JSON.stringify([job.operators.map((o) => o.name), job.edges.map((e) => [e.from, e.to])]);
  const placed = useMemo(() => layout(job.operators, job.edges), [shape]);
  if (!job.operators.length) return html`<p class="empty">The coordinator has not told the graph yet.</p>`;
  return html`<div class="scroll graph"><svg role="group" aria-label="Operators of ${job.pipeline}" width=${placed.width} height=${placed.height} viewBox=${`0 0 ${placed.width} ${placed.height}`}>
    <defs><pattern id="stripes" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="wait-paint" width="6" height="6" /><rect class="stripe" width="2" height="6" /></pattern></defs>
    ${job.edges.map((edge, at) => html`<path class="edge ${edge.exchange === "fused" ? "fused" : ""}" d=${path(placed.edges[at])} stroke-width=${thick(edge.rate)}><title>${edge.from} → ${edge.to}: ${edge.exchange}, ${short(edge.rate)}/s</title></path>`)}
    ${job.operators.map((of) => html`<${Operator} key=${of.name} of=${of} at=${placed.nodes.get(of.name)} slow=${job.bottleneck === of.name} chosen=${chosen === of.name} choose=${choose} />`)}
  </svg></div>`;
}

function Reasons({ why }) {
  const held = why.held_by;
  return html`<dl>
    <dt>Watermark</dt><dd>${time(why.watermark_ms)}${held && html`, held by split <code>${held.split}</code> of ${held.source} on ${held.node}${held.caught_up ? ", which has caught up" : ""}${held.stuck_at ? `, stuck at ${held.stuck_at}` : ""}`}</dd>
    <dt>Pressure</dt><dd>${why.pressure.length ? why.pressure.map((p) => html`<div>begins at ${p.from} → ${p.to} (${p.exchange}): ${p.to} is busy ${percent(p.busy_ratio)}, ${p.from} waits ${percent(p.backpressured_ratio)}</div>`) : "none"}</dd>
    <dt>Hot keys</dt><dd>${why.hot_keys.length ? why.hot_keys.map((k) => html`<div><code>${k.key}</code> is ${percent(k.share)} of ${k.from} → ${k.to}</div>`) : "none with a fifth of an exchange"}</dd>
  </dl>`;
}

// What is known of one operator: opened by Enter or a click, closed by Escape, and the focus goes back.
export function Drawer({ job, name, close }) {
  const place = useRef(null);
  const id = encodeURIComponent(job.id);
  const { value: detail, error } = useAsked(() => ask(`jobs/${id}/detail`), 2000, [job.id, name]);
  const { value: why, error: unsaid } = useAsked(() => ask(`jobs/${id}/why/${encodeURIComponent(name)}`), 4000, [job.id, name]);
  useEffect(() => {
    place.current.focus();
    const key = (event) => event.key === "Escape" && close();
    window.addEventListener("keydown", key);
    return () => window.removeEventListener("keydown", key);
  }, [name]);
  const of = job.operators.find((o) => o.name === name);
  if (!of) return null;
  const tasks = ((detail && detail.tasks) || []).filter((task) => task.chain === of.chain);
  // Of the longest life: a task without input ends at once.
  const all = Math.max(1e-9, ...((detail && detail.tasks) || []).map((task) => task.busy_s + task.idle_s + task.backpressured_s));
  const rows = tasks.map((task) => {
    const own = task.operators.find((o) => o.name === name) || {};
    const [busy, backpressured] = [task.busy_s / all, task.backpressured_s / all];
    const shares = { busy, backpressured, idle: 1 - busy - backpressured };
    return {
      key: task.subtask,
      cells: [String(task.subtask), task.node, whole(own.records_in), whole(own.records_out), html`<${Times} of=${shares} />`, task.doing, time(task.watermark_ms)],
    };
  });
  return html`<section class="drawer" role="dialog" aria-label="Operator ${name}" tabindex="-1" ref=${place}>
    <header><h2>${name}</h2><button type="button" onClick=${close}>Close</button></header>
    <p>${of.kind} ${of.detail && html`<code>${of.detail}</code>`}, ${of.tasks} tasks</p>
    <dl>
      <dt>Time</dt><dd><${Times} of=${of} /> busy ${percent(of.busy)}, waiting for room ${percent(of.backpressured)}, idle ${percent(of.idle)}</dd>
      <dt>Records</dt><dd>in ${whole(of.records_in)} (${short(of.in_rate)}/s), out ${whole(of.records_out)} (${short(of.out_rate)}/s)</dd>
      <dt>Skew</dt><dd>${of.skew >= 1.5 ? html`<${State} severity="warning" state=${`one task gets ${of.skew.toFixed(1)} times the mean`} />` : `${of.skew.toFixed(1)} times the mean`}</dd>
      <dt>Errors</dt><dd>${of.errors ? html`<${State} severity="warning" state=${`${whole(of.errors)} inputs skipped`} />` : "none"}, ${whole(of.late)} records too late</dd>
    </dl>
    ${why && html`<${Reasons} why=${why} />`}
    ${(error || unsaid) && html`<p><${State} severity="warning" state=${error || unsaid} /></p>`}
    <${Table} caption="Tasks, since the attempt began" head=${["Task", "Node", "#In", "#Out", "Time", "Now", "Watermark"]} rows=${rows} empty="No task has told its counts yet." />
    ${detail && html`<p class="faint">asked at ${clock(detail.at_ms)}</p>`}
  </section>`;
}

// Graph and drawer together.
export function Plan({ job }) {
  const [chosen, choose] = useState("");
  const close = () => {
    const back = document.querySelector(`[data-operator="${CSS.escape(chosen)}"]`);
    choose("");
    if (back) back.focus();
  };
  return html`<${Graph} job=${job} chosen=${chosen} choose=${choose} />${chosen && html`<${Drawer} job=${job} name=${chosen} close=${close} />`}`;
}
