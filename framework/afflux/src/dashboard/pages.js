// The pages, in the order of their use.
import { html, useState } from "./vendor/htm-preact.js";
import { Chart } from "./charts.js";
import { ask, call, change, history } from "./feed.js";
import { Plan } from "./graph.js";
import { Act, bytes, clock, percent, plural, Progress, short, span, State, Table, time, useAsked, whole } from "./parts.js";

const link = (job) => html`<a href="#/jobs/${encodeURIComponent(job.id)}">${job.id}</a>`;
const open = (job) => !["finished", "failed", "cancelled"].includes(job.state);

function jobRow(job) {
  return {
    key: job.id,
    cells: [link(job), job.pipeline, html`<${State} state=${job.state} />`, `${short(job.in_rate)}/s`, `${short(job.out_rate)}/s`, whole(job.records_in), String(job.tasks), String(job.restarts), span(job.wall_s), job.error || job.bottleneck && `${job.bottleneck} holds it up` || ""],
  };
}
const JOB_HEAD = ["Job", "Pipeline", "State", "#In", "#Out", "#Records in", "#Tasks", "#Restarts", "#Age", "Remark"];

// What is left of a node that drains; one that was told by a signal says no more than that it does.
function Draining({ node }) {
  const { phase, tasks, tasks_max, calls, calls_max, kept } = node.drain || {};
  if (!phase) return html`<div class="progress"><span>closing</span><progress aria-label="${node.id} closes"></progress></div>`;
  return html`<${Progress} label="tasks handed over by ${node.id}" value=${tasks_max - tasks} max=${tasks_max} text=${`${tasks} left`} />
    ${phase !== "tasks" && html`<${Progress} label="calls answered by ${node.id}" value=${calls_max - calls} max=${calls_max} text=${`${calls} left`} />`}
    ${kept.map((text) => html`<p key=${text}><${State} severity="warning" state=${`not handed over: ${text}`} /></p>`)}`;
}

const drained = (node) => html`<${Act} label="Drain ${node.id}" confirm="Have ${node.id} hand over its tasks, answer its calls, and end?" act=${() => change(`nodes/${encodeURIComponent(node.id)}/drain`)} done=${() => "it has begun"} />`;

function nodeRow(node, leader, live, acts) {
  const drains = node.state === "draining";
  return {
    key: node.id,
    cells: [
      html`${node.id}${node.id === leader && html` <span class="tag">coordinates</span>`}${node.id === live && html` <span class="tag">this node</span>`}`,
      html`<${State} state=${node.state} />${drains && html`<${Draining} node=${node} />`}`,
      node.address, node.admin || "–", String(node.slots), String(node.tasks),
      node.cpus == null ? "–" : percent(node.cpus), bytes(node.resident_bytes),
      node.calls_per_s == null ? "–" : `${short(node.calls_per_s)}/s`,
      node.bytes_in_per_s == null ? "–" : `${bytes(node.bytes_in_per_s)}/s`,
      node.bytes_out_per_s == null ? "–" : `${bytes(node.bytes_out_per_s)}/s`,
      ...(acts ? [node.state === "ready" ? drained(node) : ""] : []),
    ],
  };
}
const NODE_HEAD = ["Node", "State", "Node port", "Admin port", "#Slots", "#Tasks", "#CPU", "#Memory", "#Calls", "#In", "#Out"];

const eventRows = (events) => [...events].reverse().map((event, at) => ({
  key: `${event.at_ms} ${at}`,
  cells: [html`<time datetime=${new Date(event.at_ms).toISOString()}>${time(event.at_ms)}</time>`, html`<${State} severity=${event.severity} state=${event.kind} />`, event.subject, event.text],
}));
const EVENT_HEAD = ["Time (UTC)", "Kind", "Of", "What"];

const cell = (value) => (value == null ? "–" : typeof value === "number" ? (Number.isInteger(value) ? whole(value) : value.toFixed(1)) : String(value));

// What a service of the program answers to a question that it declared for this page.
function Figure({ tile }) {
  const { title, service, method, head = [], rows = [], all = 0, error } = tile;
  const number = head.map((_, at) => rows.some((row) => typeof row[at] === "number"));
  const names = head.map((name, at) => `${number[at] && at > 0 ? "#" : ""}${name.replace(/_/g, " ") || title}`);
  return html`<section><h2>${title}</h2>
    ${error ? html`<p><${State} severity="warning" state=${`${service}/${method}: ${error}`} /></p>` : html`<${Table} caption=${all > rows.length ? `${title}: the first ${rows.length} of ${whole(all)}` : title} head=${names} rows=${rows.map((row, at) => ({ key: at, cells: row.map(cell) }))} empty="Nothing yet." />`}</section>`;
}

export function Overview({ picture }) {
  const running = picture.jobs.filter(open);
  return html`<h1>Overview</h1>
    <p class="health ${picture.health.state}" role="status"><${State} severity=${picture.health.state} state=${picture.health.text} /></p>
    <ul class="tiles">
      <li><b>${picture.nodes.length}</b> nodes</li>
      <li><b>${running.length}</b> running jobs</li>
      <li><b>${short(running.reduce((sum, job) => sum + job.in_rate, 0))}/s</b> records in</li>
      <li><b>${short(picture.methods.filter((m) => !m.own).reduce((sum, m) => sum + m.calls_per_s, 0))}/s</b> calls</li>
      <li><b>${picture.leader || "nobody"}</b> coordinates jobs</li>
    </ul>
    <${Table} caption="Jobs" head=${JOB_HEAD} rows=${picture.jobs.map(jobRow)} empty=${picture.pipelines.length ? `No job was started. This program has ${picture.pipelines.join(", ")}.` : "This program has no pipelines."} />
    <${Table} caption="Nodes" head=${NODE_HEAD} rows=${picture.nodes.map((n) => nodeRow(n, picture.leader, picture.node))} />
    ${(picture.tiles || []).map((tile) => html`<${Figure} key=${tile.title} tile=${tile} />`)}
    <h2>Last events</h2>
    <${Table} caption="Last events" head=${EVENT_HEAD} rows=${eventRows(picture.events.slice(-6))} empty="Nothing has happened since this node began." />`;
}

export function Pipelines({ picture }) {
  const idle = picture.pipelines.filter((name) => !picture.jobs.some((job) => job.pipeline === name));
  return html`<h1>Pipelines</h1>
    <${Table} caption="Jobs" head=${JOB_HEAD} rows=${picture.jobs.map(jobRow)} empty="No job was started." />
    ${idle.length > 0 && html`<p class="faint">Without a job: ${idle.join(", ")}.</p>`}`;
}

function Bars({ job }) {
  const under_way = job.checkpoints.find((c) => c.state === "in_progress");
  return html`<div class="bars">
    ${job.input_total && html`<${Progress} label="input read" value=${job.input_done} max=${job.input_total} />`}
    ${job.state === "deploying" && html`<div class="progress"><span>${job.attempt > 1 ? "restoring" : "deploying"}</span><progress aria-label="deploying"></progress></div>`}
    ${job.state === "restarting" && html`<div class="progress"><span>restarting</span><progress aria-label="restarting"></progress></div>`}
    ${under_way && html`<${Progress} label="checkpoint ${under_way.epoch}" value=${under_way.tasks_stored} max=${under_way.tasks} text=${`${under_way.tasks_stored} of ${under_way.tasks} tasks`} />`}
  </div>`;
}

function Savepoint({ job }) {
  return html`<${Act} label="Take a savepoint of ${job.id}" act=${() => change(`jobs/${encodeURIComponent(job.id)}/savepoints`)} done=${(kept) => `savepoint ${kept.operation.location} is stored, ${bytes(kept.checkpoint.bytes)}`} />`;
}

export function Job({ picture, id }) {
  const job = picture.jobs.find((job) => job.id === id);
  if (!job) return html`<h1>${id}</h1><p class="empty">The coordinator knows no such job; it remembers the last twenty.</p>`;
  const rates = history.jobs.get(id);
  return html`<h1>${job.id}</h1>
    <p><${State} state=${job.state} /> attempt ${job.attempt}, ${plural(job.restarts, "restart")}, ${plural(job.tasks, "task")} on ${job.nodes.join(", ") || "no node"}, for ${span(job.wall_s)}${job.output && html`, writes <code>${job.output}</code>`}</p>
    ${job.error && html`<p><${State} severity="bad" state=${job.error} /></p>`}
    ${job.bottleneck && html`<p><${State} severity="warning" state=${`${job.bottleneck} is busy, and what is in front of it waits`} /></p>`}
    <${Bars} job=${job} />
    <ul class="tiles">
      <li><b>${short(job.in_rate)}/s</b> in, ${whole(job.records_in)} so far</li>
      <li><b>${short(job.out_rate)}/s</b> out, ${whole(job.records_out)} so far</li>
      <li><b>${whole(job.late)}</b> too late</li>
      <li><b>${whole(job.skipped)}</b> skipped</li>
      <li><b>${time(job.watermark_ms)}</b> watermark</li>
    </ul>
    <h2>Operators</h2>
    <${Plan} job=${job} />
    ${rates && html`<${Chart} title="Records of ${job.id}" lines=${["in", "out"]} data=${[history.at, rates.in, rates.out]} />`}
    <h2>Checkpoints</h2>
    <${CheckpointTable} job=${job} />
    ${open(job) && html`<div class="acts"><${Savepoint} job=${job} />
      <${Act} label="Cancel the job" confirm="Stop ${job.id}? It does not begin again by itself." act=${() => change(`jobs/${encodeURIComponent(job.id)}/cancel`)} done=${(now) => `the job is ${now.state}`} /></div>`}
    ${job.failures.length > 0 && html`<h2>Failures</h2><ol>${job.failures.map((text) => html`<li>${text}</li>`)}</ol>`}
    <h2>Events</h2>
    <${Table} caption="Events of ${job.id}" head=${EVENT_HEAD} rows=${eventRows(picture.events.filter((e) => e.subject === id))} />`;
}

function CheckpointTable({ job }) {
  const rows = [...job.checkpoints].reverse().map((c) => ({
    key: `${c.attempt} ${c.epoch}`,
    cells: [
      html`${c.epoch}${c.savepoint && html` <span class="tag">savepoint</span>`}`,
      c.state === "in_progress" ? html`<${Progress} label="under way" value=${c.tasks_stored} max=${c.tasks} />` : html`<${State} state=${c.state} />`,
      clock(c.started_ms), c.took_ms == null ? "–" : span(c.took_ms / 1000), c.state === "completed" ? bytes(c.bytes) : "–",
      `${c.tasks_stored} of ${c.tasks}`, String(c.attempt), c.error || "",
    ],
  }));
  return html`<${Table} caption="Checkpoints of ${job.id}, the newest first" head=${["Epoch", "State", "Begun", "#Took", "#Size", "#Tasks", "#Attempt", "Why it failed"]} rows=${rows} empty="No checkpoint has begun. checkpoint.interval_ms makes them regular." />`;
}

export function Checkpoints({ picture }) {
  if (!picture.jobs.length) return html`<h1>Checkpoints</h1><p class="empty">No job was started.</p>`;
  return html`<h1>Checkpoints</h1>${picture.jobs.map((job) => html`<section key=${job.id}>
    <h2>${link(job)}</h2>
    <p>${job.last_checkpoint == null ? "Nothing is durable yet." : `Epoch ${job.last_checkpoint} is durable.`}</p>
    <${CheckpointTable} job=${job} />
    ${open(job) && html`<div class="acts"><${Savepoint} job=${job} /></div>`}
  </section>`)}`;
}

export function Nodes({ picture }) {
  return html`<h1>Nodes</h1>
    <p><${State} severity=${picture.registry.reachable ? "good" : "bad"} state=${picture.registry.reachable ? "The registry answers" : "The registry does not answer: this was seen last"} />, version ${picture.registry.version} of its records; ${picture.leader || "nobody"} coordinates the jobs.</p>
    <${Table} caption="Nodes" head=${[...NODE_HEAD, "Drain"]} rows=${picture.nodes.map((n) => nodeRow(n, picture.leader, picture.node, true))} />
    <h2>Records</h2>
    <${Table} caption="What the registry has of each" head=${["Node", "Life", "Build", "Labels", "Services"]} rows=${picture.nodes.map((n) => ({ key: n.id, cells: [n.id, String(n.incarnation), n.build, Object.entries(n.labels || {}).map(([k, v]) => `${k}=${v}`).join(" ") || "–", n.services.join(", ")] }))} />`;
}

export function Events({ picture }) {
  const last = picture.events.length ? picture.events[picture.events.length - 1].at_ms : 0;
  const { value, error } = useAsked(() => ask("events"), 0, [last]);
  return html`<h1>Events</h1>
    <p class="faint">Nodes and leaders as this node has seen them since it began, jobs as their coordinator remembers them.</p>
    ${error && html`<p><${State} severity="warning" state=${error} /></p>`}
    <${Table} caption="Events, the newest first" head=${EVENT_HEAD} rows=${eventRows(value || picture.events)} empty="Nothing has happened since this node began." />`;
}

export function Services({ picture }) {
  const [own, setOwn] = useState(false);
  const { value: offered, error } = useAsked(() => ask("services"), 10000, []);
  const methods = picture.methods.filter((m) => own || !m.own);
  const services = (offered || []).filter((s) => own || !s.name.startsWith("afflux."));
  return html`<h1>Services</h1>
    <p><label><input type="checkbox" checked=${own} onChange=${(event) => setOwn(event.target.checked)} /> with the framework's own</label></p>
    ${error && html`<p><${State} severity="warning" state=${error} /></p>`}
    <${Table} caption="Services" head=${["Service", "Version", "Nodes", "#Methods", "What it is"]} rows=${services.map((s) => ({ key: s.name, cells: [html`<a href="#/services/${s.name}">${s.name}</a>`, s.version, s.nodes.join(", "), String(s.methods.length), s.doc.split("\n")[0]] }))} empty="No service is offered." />
    <h2>Calls between nodes</h2>
    <${Table} caption="Methods" head=${["Method", "#Calls", "#Errors", "#p50", "#p99", "#In flight", "#Calls so far"]} rows=${methods.map((m) => ({
      key: `${m.service} ${m.method}`,
      cells: [`${m.service}/${m.method}`, `${short(m.calls_per_s)}/s`, m.errors_per_s > 0 ? html`<${State} severity="warning" state=${`${short(m.errors_per_s)}/s`} />` : "0/s", span(m.p50_s), span(m.p99_s), String(m.in_flight), whole(m.calls)],
    }))} empty="No node has called another." />`;
}

function Try({ service, method }) {
  const [text, setText] = useState("{}");
  const [told, setTold] = useState({});
  const field = `params-${method.name}`;
  const run = async (event) => {
    event.preventDefault();
    try {
      setTold({ value: await call(service.name, method.name, JSON.parse(text || "{}")) });
    } catch (error) {
      setTold({ error: error.message });
    }
  };
  return html`<form onSubmit=${run}><label for=${field}>Parameters of ${method.name}, as JSON</label>
    <textarea id=${field} rows="3" spellcheck="false" value=${text} onInput=${(event) => setText(event.target.value)}></textarea>
    <button>Call ${method.name}</button>
    <div role="status">${told.error ? html`<${State} severity="bad" state=${told.error} />` : "value" in told && html`<pre tabindex="0" aria-label="Answer">${JSON.stringify(told.value, null, 2)}</pre>`}</div></form>`;
}

export function Service({ id }) {
  const { value: offered, error } = useAsked(() => ask("services"), 0, [id]);
  const service = (offered || []).find((s) => s.name === id);
  if (!service) return html`<h1>${id}</h1><p class="empty">${error || (offered ? "No node offers this service." : "Asking the nodes.")}</p>`;
  return html`<h1>${service.name} <span class="faint">${service.version}</span></h1>
    <p>${service.doc}</p><p class="faint">on ${service.nodes.join(", ")}</p>
    ${service.methods.map((method) => html`<section key=${method.name}>
      <h2>${method.name}(${method.fields.join(", ")})</h2>
      <p>${method.doc}</p>
      <p>${method.kind.replace("_", " ")}, deadline ${span(method.deadline_ms / 1000)}${method.idempotent && html` <span class="tag">idempotent</span>`}${method.readonly && html` <span class="tag">readonly</span>`}</p>
      <details><summary>Schemas of ${method.name}</summary><pre tabindex="0" aria-label="Schemas of ${method.name}">${JSON.stringify({ params: method.params, returns: method.returns, error: method.error }, null, 2)}</pre></details>
      ${method.kind === "unary" && method.readonly && !service.name.startsWith("afflux.") && html`<${Try} service=${service} method=${method} />`}
    </section>`)}`;
}

export function Actors({ picture }) {
  return html`<h1>Actors</h1>
    <p class="faint">By kind and node: how many there are, and what waits in their mailboxes.</p>
    <${Table} caption="Actors" head=${["Kind", "Node", "#Alive", "#Waiting", "#In the fullest", "#Room", "Fullness", "#Rejected", "#Panics"]} rows=${picture.actors.map((a) => ({
      key: `${a.kind} ${a.node}`,
      cells: [a.kind, a.node, whole(a.actors), whole(a.waiting), whole(a.waiting_max), whole(a.capacity), html`<progress aria-label="Fullness of ${a.kind} on ${a.node}" max=${a.capacity || 1} value=${a.waiting}></progress>`, `${short(a.rejected_per_s)}/s`, a.panics ? html`<${State} severity="warning" state=${whole(a.panics)} />` : "0"],
    }))} empty="No actor is counted yet." />`;
}

export function Settings() {
  const [only, setOnly] = useState("");
  const { value, error } = useAsked(() => ask("settings"), 0, []);
  if (error) return html`<h1>Settings</h1><p><${State} severity="warning" state=${error} /></p>`;
  if (!value) return html`<h1>Settings</h1><p class="empty">This node was started by a program, not from the command line: it does not tell where its settings come from.</p>`;
  const rows = value.filter((s) => s.name.includes(only) || s.origin.includes(only)).map((s) => ({
    key: s.name,
    cells: [html`<code>${s.name}</code>`, `${Array.isArray(s.value) ? s.value.join(", ") : s.value}${s.unit && ` ${s.unit}`}` || "(none)", s.origin === "default" ? "default" : html`<b>${s.origin}</b>`, s.doc],
  }));
  return html`<h1>Settings</h1><p><label>Only names with <input type="search" value=${only} onInput=${(event) => setOnly(event.target.value)} /></label></p>
    <${Table} caption="Effective settings of this node" head=${["Setting", "Value", "From", "What it is for"]} rows=${rows} empty="No setting has that in its name." />`;
}

