// Sources of the gallery: what there is, adding some with their progress, deleting with all of it.

import { get, send, url } from "./api.js";
import { $, h, number, say, tried, withZone } from "./dom.js";

export function startFootage({ canAdd, changed }) {
  $("cannot-add").hidden = canAdd;
  $("new-source").hidden = !canAdd;
  const form = $("new-source");
  let timer = null;
  let running = false;

  async function list() {
    const sources = await get("/api/sources");
    $("source-list").replaceChildren(
      sources.length
        ? h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["Source", "Camera", "Kind", "People", "File", ""].map((t) => h("th", { scope: "col" }, t)))),
            h("tbody", {}, sources.map(row))))
        : h("p", { class: "quiet" }, "No footage yet."),
    );
  }

  const row = (source) =>
    h("tr", {}, [source.name, source.camera, source.kind, number.format(source.people), source.available ? "there" : "gone: thumbnails only"].map((t) => h("td", {}, t)),
      h("td", {}, canAdd ? h("button", { type: "button", class: "plain", "aria-label": `Delete ${source.name}`, onclick: tried(() => remove(source)) }, "Delete") : null));

  async function remove(source) {
    if (!confirm(`Delete "${source.name}": its ${source.people} people, their thumbnails and index files? The footage itself stays.`)) return;
    await send("DELETE", url("/api/sources", { name: source.name }));
    say(`${source.name} deleted`);
    await list();
    await changed();
  }

  const jobs = tried(async () => {
    clearTimeout(timer);
    const all = await get("/api/jobs");
    $("jobs").replaceChildren(...all.map((job) =>
      h("li", { class: job.state }, `${job.source}: ${job.message}`,
        job.state === "running" ? h("progress", { "aria-label": job.source, value: job.progress ?? undefined, max: 1 }) : null)));
    const now = all.some((job) => job.state === "running");
    if (running && !now) {
      await list();
      await changed();
    }
    running = now;
    if (now) timer = setTimeout(jobs, 1000);
  });

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    tried(async () => {
      const data = new FormData(form);
      await send("POST", "/api/sources", {
        path: data.get("path"),
        camera: data.get("camera") || null,
        start: withZone(data.get("start")),
        fps: Number(data.get("fps")),
      });
      form.reset();
      running = true;
      await jobs();
    })();
  });
  // A path dragged from a file manager or a terminal comes as text.
  form.addEventListener("dragover", (event) => event.preventDefault());
  form.addEventListener("drop", (event) => {
    event.preventDefault();
    const text = event.dataTransfer.getData("text/uri-list") || event.dataTransfer.getData("text");
    if (text) form.elements.path.value = decodeURIComponent(text.trim().split("\n")[0].replace(/^file:\/\//, ""));
    else say("The browser hides where a file lies: type its path.");
  });
  return tried(async () => {
    await list();
    await jobs();
  });
}
