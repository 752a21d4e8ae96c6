// Lines over time, by uPlot.
import { html, useEffect, useRef } from "./vendor/htm-preact.js";
import { short } from "./parts.js";

const HEIGHT = 180;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function options(width, lines) {
  const axis = { stroke: colour("--faint"), grid: { stroke: colour("--line") }, ticks: { stroke: colour("--line") } };
  return {
    width,
    height: HEIGHT,
    cursor: { drag: { x: false, y: false } },
    scales: { y: { range: (_, low, high) => [0, Math.max(1, high * 1.1)] } },
    axes: [axis, { ...axis, size: 64, values: (_, values) => values.map(short) }],
    series: [
      {},
      ...lines.map((label, at) => ({
        label,
        // Told apart by dashes, too.
        stroke: colour(at ? "--wait" : "--busy"),
        dash: at ? [6, 4] : undefined,
        width: 2,
        value: (_, value) => (value == null ? "–" : `${short(value)}/s`),
      })),
    ],
  };
}

// `lines` are the names, `data` is [times, line, line…].
export function Chart({ title, lines, data }) {
  const place = useRef(null);
  const plot = useRef(null);
  useEffect(() => {
    if (!window.uPlot) return undefined;
    const draw = () => {
      if (plot.current) plot.current.destroy();
      plot.current = new window.uPlot(options(place.current.clientWidth || 600, lines), data, place.current);
    };
    draw();
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    dark.addEventListener("change", draw);
    const wider = new ResizeObserver(() => plot.current.setSize({ width: place.current.clientWidth, height: HEIGHT }));
    wider.observe(place.current);
    return () => {
      dark.removeEventListener("change", draw);
      wider.disconnect();
      plot.current.destroy();
      plot.current = null;
    };
  }, [title]);
  useEffect(() => {
    if (plot.current) plot.current.setData(data);
  });
  const last = lines.map((name, at) => `${name} ${short(data[at + 1][data[at + 1].length - 1])}/s`).join(", ");
  return html`<figure><figcaption>${title}: now ${last}</figcaption><div class="plot" ref=${place}></div></figure>`;
}
