// The frame around the pages: where one is, whether the stream lives, the token.
import { html, render, useEffect, useState } from "./vendor/htm-preact.js";
import { follow, setToken } from "./feed.js";
import { Dialog, clock, State } from "./parts.js";
import { Actors, Checkpoints, Events, Job, Nodes, Overview, Pipelines, Service, Services, Settings } from "./pages.js";

const PAGES = [
  ["", "Overview", Overview],
  ["jobs", "Pipelines", Pipelines, Job],
  ["checkpoints", "Checkpoints", Checkpoints],
  ["nodes", "Nodes", Nodes],
  ["events", "Events", Events],
  ["services", "Services", Services, Service],
  ["actors", "Actors", Actors],
  ["settings", "Settings", Settings],
];

function here() {
  const [, page = "", ...rest] = location.hash.replace(/^#/, "").split("/");
  let id = rest.join("/");
  try {
    id = decodeURIComponent(id);
  } catch {}
  return { page, id };
}

function Token({ open, close }) {
  const [text, setText] = useState("");
  const keep = (event) => {
    event.preventDefault();
    setToken(text);
    setText("");
    close(true);
  };
  return html`<${Dialog} title="Token" open=${open} onClose=${() => close(false)}>
    <p>This node asks who you are: show the cluster's token, or one of your own. It is kept until this window closes.</p>
    <form onSubmit=${keep}><label>Token <input type="password" autocomplete="off" value=${text} onInput=${(event) => setText(event.target.value)} /></label>
    <div class="acts"><button>Use it</button> <button type="button" onClick=${() => close(false)}>Not now</button></div></form>
  <//>`;
}

function App() {
  const [picture, setPicture] = useState(null);
  const [said, say] = useState("connecting");
  const [at, setAt] = useState(here());
  const [locked, setLocked] = useState(false);
  const [life, setLife] = useState(0);
  useEffect(() => follow(setPicture, say), [life]);
  useEffect(() => {
    const moved = () => {
      setAt(here());
      const main = document.querySelector("main");
      if (main) main.focus();
      window.scrollTo(0, 0);
    };
    const asked = () => setLocked(true);
    window.addEventListener("hashchange", moved);
    window.addEventListener("afflux-locked", asked);
    return () => {
      window.removeEventListener("hashchange", moved);
      window.removeEventListener("afflux-locked", asked);
    };
  }, []);
  const [, title, List, One] = PAGES.find(([name]) => name === at.page) || PAGES[0];
  const Page = at.id && One ? One : List;
  useEffect(() => {
    document.title = `${at.id || title} – ${picture ? picture.cluster : "Afflux"}`;
  }, [title, at.id, picture && picture.cluster]);
  const close = (kept) => {
    setLocked(false);
    if (kept) setLife(life + 1);
  };
  return html`<a class="skip" href="#main" onClick=${(event) => { event.preventDefault(); document.querySelector("main").focus(); }}>Skip to the page</a>
    <header class="top">
      <span class="brand">${picture ? picture.cluster : "Afflux"}</span>
      <nav aria-label="Pages"><ul>${PAGES.map(([name, label]) => html`<li key=${name}><a href="#/${name}" aria-current=${name === at.page ? "page" : undefined}>${label}</a></li>`)}</ul></nav>
      <span class="feed"><${State} severity=${said === "live" ? "good" : "warning"} state=${said} />${picture && html`<span class="faint"> ${picture.node}, ${clock(picture.at_ms)}</span>`}</span>
      ${picture && picture.secured && html`<button type="button" onClick=${() => setLocked(true)}>Token</button>`}
    </header>
    <main id="main" tabindex="-1">${picture ? html`<${Page} key=${at.page + at.id} picture=${picture} id=${at.id} />` : html`<h1>${title}</h1><p class="empty">${said === "connecting" ? "Looking at the cluster." : said}</p>`}</main>
    <${Token} open=${locked} close=${close} />`;
}

const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
