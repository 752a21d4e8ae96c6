// Drives the dashboard of a running cluster; see ./run.
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const cluster = JSON.parse(readFileSync(process.argv[2], "utf8"));
const PATIENCE_MS = 30_000;
/** What is aimed at. It is told and not judged: how fast this machine is now is not the page's. */
const LAYOUT_MS_AIM = 300;
const PAGES = ["", "jobs", "checkpoints", "nodes", "events", "services", "actors", "settings"];

let failed = 0;
const noise = [];
async function check(name, run) {
  const begun = Date.now();
  try {
    const told = await run();
    console.log(`ok     ${name}${told ? `: ${told}` : ""} (${Date.now() - begun} ms)`);
  } catch (error) {
    failed = 1;
    console.log(`FAILED ${name}: ${String(error.message || error).split("\n").slice(0, 12).join("\n       ")}`);
  }
}
function assert(holds, text) {
  if (!holds) throw new Error(text);
}

// node-1 is asked, node-3 is killed.
const [first] = cluster.nodes;
const last = cluster.nodes[cluster.nodes.length - 1];
const address = `http://${first.admin}/`;
const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ["--no-sandbox"] });

async function open(scheme) {
  const page = await browser.newPage({ colorScheme: scheme, viewport: { width: 1400, height: 900 } });
  page.setDefaultTimeout(PATIENCE_MS);
  page.on("console", (message) => message.type() === "error" && noise.push(`${page.url()}: ${message.text()}`));
  page.on("pageerror", (error) => noise.push(`${page.url()}: ${error.message}`));
  page.on("request", (request) => request.url().startsWith(address) || request.url().startsWith("data:") || noise.push(`asks ${request.url()}`));
  await page.goto(address);
  await page.waitForSelector(".health");
  return page;
}

async function go(page, hash) {
  await page.evaluate((hash) => { location.hash = hash; }, `#/${hash}`);
  await page.waitForFunction(() => document.querySelector("main h1"));
  // What a page asks for itself is there when nothing is being asked any more.
  await page.waitForTimeout(300);
}

async function findings(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run());
  return violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160)).join(" | ")}`);
}

const page = await open("light");
let job = "";

await check("the overview says how the cluster is", async () => {
  await page.waitForFunction(() => document.querySelectorAll("table").length >= 3);
  job = await page.textContent("table a[href^='#/jobs/']");
  const text = await page.textContent(".health");
  assert(/\w.*\.$/.test(text.trim()), text);
  return text.trim();
});

for (const scheme of ["light", "dark"]) {
  const shown = scheme === "light" ? page : await open(scheme);
  for (const name of [...PAGES, `jobs/${job}`, "services/flights.board"]) {
    await check(`${name || "overview"}, ${scheme}: axe finds nothing`, async () => {
      await go(shown, name);
      if (process.env.PICTURES) await shown.screenshot({ path: `${process.env.PICTURES}/${name.replace("/", "-") || "overview"}-${scheme}.png`, fullPage: true });
      const found = await findings(shown);
      assert(found.length === 0, found.join("\n"));
    });
  }
  if (scheme === "dark") await shown.close();
}

await check("Enter on an operator opens its drawer, Escape closes it and the focus goes back", async () => {
  await go(page, `jobs/${job}`);
  await page.waitForSelector(".operator");
  const name = await page.$eval(".operator", (node) => { node.focus(); return node.dataset.operator; });
  await page.keyboard.press("Enter");
  await page.waitForSelector(".drawer table tbody tr");
  assert((await page.textContent(".drawer h2")) === name, "another drawer");
  assert(await page.$eval(".drawer", (drawer) => drawer.contains(document.activeElement)), "the focus is elsewhere");
  const found = await findings(page);
  assert(found.length === 0, found.join("\n"));
  if (process.env.PICTURES) await page.screenshot({ path: `${process.env.PICTURES}/drawer.png` });
  await page.keyboard.press("Escape");
  await page.waitForSelector(".drawer", { state: "detached" });
  const back = await page.evaluate(() => document.activeElement.dataset.operator);
  assert(back === name, `the focus is on ${back}`);
  return name;
});

await check("every page is reached with the keyboard alone", async () => {
  await go(page, "");
  await page.evaluate(() => document.activeElement.blur());
  const reached = new Set();
  for (let n = 0; n < 40; n += 1) {
    await page.keyboard.press("Tab");
    const href = await page.evaluate(() => document.activeElement.getAttribute("href") || "");
    if (href.startsWith("#/")) reached.add(href);
  }
  for (const name of PAGES) assert(reached.has(`#/${name}`), `#/${name} is not among ${[...reached]}`);
});

await check("a savepoint wants the token, and is taken with it", async () => {
  await go(page, "checkpoints");
  await page.click("text=Take a savepoint");
  await page.waitForSelector("dialog[open] input");
  await page.fill("dialog[open] input", cluster.token);
  await page.keyboard.press("Enter");
  await page.waitForSelector("dialog[open]", { state: "detached" }).catch(() => {});
  await page.click("text=Take a savepoint");
  const told = page.locator("text=/savepoint .* is stored/").first();
  await told.waitFor();
  await page.waitForSelector("td .tag:has-text('savepoint'), th .tag:has-text('savepoint')");
  return (await told.textContent()).trim();
});

await check("the overview shows what the program's own service answers", async () => {
  await go(page, "");
  const row = page.locator("section", { hasText: "The airports now" }).locator("tbody tr", { hasText: "JFK" }).first();
  await row.waitFor();
  const found = await findings(page);
  assert(found.length === 0, found.join("\n"));
  if (process.env.PICTURES) await page.screenshot({ path: `${process.env.PICTURES}/overview-figures.png`, fullPage: true });
  return (await row.locator("th, td").allTextContents()).join(", ");
});

await check("a plan of 200 operators is laid out in time", async () => {
  const times = await page.evaluate(async (max) => {
    const app = document.querySelector("script[type=module]").src;
    const { layout } = await import(app.replace("app.js", "graph.js"));
    let seed = 7;
    const next = (n) => { seed = (seed * 1103515245 + 12345) % 2147483648; return seed % n; };
    const operators = Array.from({ length: 200 }, (_, at) => ({ name: `operator-${at}` }));
    const edges = [];
    for (let at = 1; at < 200; at += 1) {
      edges.push({ from: `operator-${Math.max(0, at - 1 - next(10))}`, to: `operator-${at}` });
      if (at > 12 && next(4) === 0) edges.push({ from: `operator-${at - 2 - next(10)}`, to: `operator-${at}` });
    }
    const times = [];
    // Other processes of this machine are not the page's: the best of a few, or of many where it is busy.
    for (let run = 0; run < 5 || (run < 40 && Math.min(...times) >= max); run += 1) {
      const begun = performance.now();
      const placed = layout(operators, edges);
      times.push(performance.now() - begun);
      if (placed.nodes.size !== 200) throw new Error("operators are missing");
    }
    return times;
  }, LAYOUT_MS_AIM);
  const best = Math.min(...times);
  const told = `${times.map((ms) => ms.toFixed(0)).join(", ")} ms`;
  return best < LAYOUT_MS_AIM ? told : `${told}: ABOVE the aim of ${LAYOUT_MS_AIM} ms`;
});

await check("a node is drained: its bar, its leaving, and its coming back", async () => {
  await go(page, "nodes");
  page.once("dialog", (dialog) => dialog.accept());
  const second = cluster.nodes[1];
  await page.getByRole("button", { name: `Drain ${second.id}` }).click();
  // One of its bars, or the word that it has begun, whichever is seen first: it may be quick.
  await page.locator(`progress[aria-label$="by ${second.id}"], [role=status]:has-text("it has begun")`).first().waitFor();
  await go(page, "events");
  const left = page.locator("tr", { hasText: new RegExp(`${second.id} has left`) }).first();
  await left.waitFor();
  const back = page.locator("tr", { hasText: new RegExp(`${second.id} has joined`) });
  await page.waitForFunction((id) => [...document.querySelectorAll("tr")].filter((row) => row.textContent.includes(`${id} has joined`)).length >= 2, second.id);
  assert((await back.count()) >= 2, "it did not come back");
  return (await left.textContent()).trim().slice(0, 120);
});

await check("a killed node appears among the events", async () => {
  await go(page, "events");
  process.kill(last.pid, "SIGKILL");
  const row = page.locator("tr", { hasText: new RegExp(`${last.id} is lost|the link to ${last.id} ended`) }).first();
  await row.waitFor();
  return (await row.textContent()).trim().slice(0, 160);
});

await check("the job goes on after that, and the page with it", async () => {
  await go(page, "events");
  const row = page.locator("tr", { hasText: /is running \(attempt [2-9]/ }).first();
  await row.waitFor();
  return (await row.textContent()).trim().slice(0, 160);
});

await check("nothing was said on the console, and nothing asked of others", async () => {
  // What the browser says of an answer of 401 is the answer that was wanted.
  const rest = noise.filter((line) => !/status of 401/.test(line));
  assert(rest.length === 0, rest.slice(0, 5).join("\n"));
});

await browser.close();
process.exit(failed);
