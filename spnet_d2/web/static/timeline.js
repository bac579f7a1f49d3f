// Sightings over time, one line per camera.

import { h, time } from "./dom.js";

export function drawTimeline(root, hits, decisions, open) {
  const dated = hits.filter((hit) => hit.time);
  if (dated.length < 2) {
    root.replaceChildren();
    return;
  }
  const when = (hit) => Date.parse(hit.time);
  const first = Math.min(...dated.map(when));
  const last = Math.max(...dated.map(when));
  const cameras = [...new Set(dated.map((hit) => hit.camera))].sort();
  const dot = (hit) => {
    const confirmed = decisions.get(hit.id) === "confirmed";
    return h("button", {
      type: "button",
      class: confirmed ? "dot confirmed" : "dot",
      style: { left: `${last > first ? 2 + (96 * (when(hit) - first)) / (last - first) : 50}%` },
      title: `${time(hit.time)}, similarity ${hit.similarity.toFixed(3)}`,
      "aria-label": `${hit.camera}, ${time(hit.time)}, similarity ${hit.similarity.toFixed(3)}${confirmed ? ", confirmed" : ""}`,
      onclick: () => open(hit),
    });
  };
  const track = (camera) =>
    h("div", { class: "track" }, h("span", {}, camera || "no camera"),
      h("div", { class: "bar" }, dated.filter((hit) => hit.camera === camera).map(dot)));
  root.replaceChildren(
    h("h3", { class: "visually-hidden" }, "Time line"),
    ...cameras.map(track),
    h("div", { class: "ends quiet" }, h("span", {}, time(dated.find((hit) => when(hit) === first).time)), h("span", {}, time(dated.find((hit) => when(hit) === last).time))),
  );
}
