// Small parts of every page: numbers, states, tables, bars.
import { html, useEffect, useRef, useState } from "./vendor/htm-preact.js";

export function short(n) {
  if (n == null || Number.isNaN(n)) return "–";
  for (const [size, unit] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (Math.abs(n) >= size) return (n / size).toFixed(1) + unit;
  }
  return Number.isInteger(n) ? String(n) : n.toFixed(1);
}
export const whole = (n) => (n == null ? "–" : Math.round(n).toLocaleString("en-US"));
export const percent = (share) => `${Math.round(100 * (share || 0))} %`;
export function bytes(n) {
  if (n == null) return "–";
  for (const [size, unit] of [[2 ** 30, " GiB"], [2 ** 20, " MiB"], [1024, " KiB"]]) {
    if (n >= size) return (n / size).toFixed(1) + unit;
  }
  return `${Math.round(n)} B`;
}
export function span(seconds) {
  if (seconds == null) return "–";
  if (seconds === 0) return "0 s";
  if (seconds < 0.001) return `${Math.round(seconds * 1e6)} µs`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(seconds < 0.1 ? 1 : 0)} ms`;
  if (seconds < 100) return `${seconds.toFixed(1)} s`;
  if (seconds < 6000) return `${Math.round(seconds / 60)} min`;
  return seconds < 172800 ? `${Math.round(seconds / 3600)} h` : `${Math.round(seconds / 86400)} d`;
}
export const time = (ms) => (ms == null ? "–" : new Date(ms).toISOString().replace("T", " ").slice(0, 19));
export const clock = (ms) => (ms == null ? "–" : new Date(ms).toLocaleTimeString("en-GB"));
export const plural = (n, what) => `${whole(n)} ${what}${n === 1 ? "" : "s"}`;

// A state is a shape, a word and a colour, never the colour alone.
const SHAPES = { good: "●", note: "○", warning: "▲", bad: "■" };
const SEVERITY = {
  running: "good", ready: "good", finished: "good", completed: "good",
  deploying: "note", in_progress: "note", draining: "note", stopping: "note",
  restarting: "warning", cancelled: "warning",
  failed: "bad", unreachable: "bad",
};
export function State({ state, severity }) {
  const kind = severity || SEVERITY[state] || "note";
  return html`<span class="state ${kind}"><span aria-hidden="true">${SHAPES[kind]}</span> ${String(state).replace("_", " ")}</span>`;
}

export function Table({ caption, head, rows, empty }) {
  if (!rows.length) return html`<p class="empty">${empty || "There is nothing yet."}</p>`;
  // It may be wider than the window: then it can be scrolled with the keyboard, too.
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}><table>
    <caption>${caption}</caption>
    <thead><tr>${head.map((h) => html`<th scope="col" class=${h.startsWith("#") ? "n" : ""}>${h.replace("#", "")}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr key=${row.key}>${row.cells.map((cell, at) => at === 0
      ? html`<th scope="row">${cell}</th>`
      : html`<td class=${head[at].startsWith("#") ? "n" : ""}>${cell}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

export function Progress({ label, value, max, text }) {
  return html`<div class="progress"><span>${label}</span>
    <progress aria-label=${label} max=${max || 1} value=${Math.min(value, max || 1)}></progress>
    <span class="n">${text || percent(max ? value / max : 0)}</span></div>`;
}

// Where the time of tasks went: three parts, each with its own pattern, and in words.
export function Times({ of }) {
  const words = `busy ${percent(of.busy)}, waiting for room ${percent(of.backpressured)}, idle ${percent(of.idle)}`;
  const part = (kind) => html`<span class="part ${kind}" style=${{ width: `${100 * (of[kind] || 0)}%` }}></span>`;
  return html`<span class="times" role="img" aria-label=${words} title=${words}>${part("busy")}${part("backpressured")}${part("idle")}</span>`;
}

// Asks again and again while it is shown.
export function useAsked(load, every, keys) {
  const [asked, setAsked] = useState({});
  useEffect(() => {
    let shown = true;
    let waiting = 0;
    const again = async () => {
      try {
        const value = await load();
        if (shown) setAsked({ value });
      } catch (error) {
        if (shown) setAsked((known) => ({ value: known.value, error: error.message }));
      }
      if (shown && every) waiting = setTimeout(again, every);
    };
    again();
    return () => {
      shown = false;
      clearTimeout(waiting);
    };
  }, keys);
  return asked;
}

// A button that does something and tells what came of it.
export function Act({ label, confirm, act, done }) {
  const [told, setTold] = useState({});
  const run = async () => {
    if (confirm && !window.confirm(confirm)) return;
    setTold({ busy: true });
    try {
      setTold({ text: done(await act()), severity: "good" });
    } catch (error) {
      setTold({ text: error.message, severity: "bad" });
    }
  };
  return html`<span class="act"><button type="button" disabled=${told.busy} onClick=${run}>${label}</button>
    <span role="status">${told.busy ? html`<progress aria-label=${label}></progress>` : told.text && html`<${State} state=${told.text} severity=${told.severity} />`}</span></span>`;
}

// A dialog of the browser's own: it keeps the focus inside and closes with Escape.
export function Dialog({ title, open, onClose, children }) {
  const ref = useRef(null);
  useEffect(() => {
    const dialog = ref.current;
    if (open && !dialog.open) dialog.showModal();
    if (!open && dialog.open) dialog.close();
  }, [open]);
  return html`<dialog ref=${ref} aria-label=${title} onClose=${onClose}>${open && html`<h2>${title}</h2>${children}`}</dialog>`;
}
