// Hits: a grid that grows as one scrolls, the verdict, filters and the time line.

import { get, send, thumbnail } from "./api.js";
import { $, h, number, say, tried, when, withZone } from "./dom.js";
import { changes, lookFor, mark, markOf, wanted } from "./state.js";
import { drawTimeline } from "./timeline.js";

const PAGE = 24;

export class Results {
  // open(hit): show its scene; marked(hit, kind): a decision was made.
  // decisions(): those of the open case; deciding(): whether one is open.
  constructor({ open, marked, decisions, deciding }) {
    this.open = open;
    this.marked = marked;
    this.decisions = decisions;
    this.deciding = deciding;
    this.hits = [];
    this.thresholds = [];
    this.running = null;
    $("filters").addEventListener("input", () => this.#later());
    $("filters").addEventListener("submit", (event) => event.preventDefault());
    $("slider").addEventListener("input", () => this.#judge());
    changes.addEventListener("wanted", () => this.search());
    changes.addEventListener("case", () => this.#show());
    // The end of the page comes near: the next hits are fetched before it is reached.
    new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting)) this.#next();
    }, { rootMargin: "600px" }).observe($("more"));
  }

  setGallery(info) {
    const chosen = new Set([...document.querySelectorAll("[name=camera-on]:checked")].map((box) => box.value));
    $("camera-boxes").replaceChildren(
      ...info.cameras.map((camera) =>
        h("label", { class: "check" }, h("input", { type: "checkbox", name: "camera-on", value: camera.name, checked: chosen.has(camera.name) }), ` ${camera.name || "no camera"}`),
      ),
    );
    this.thresholds = info.thresholds;
    const slider = $("slider");
    if (this.thresholds.length) {
      slider.max = this.thresholds.length - 1;
      slider.value = Math.max(0, this.thresholds.findIndex((t) => t.false_alarms >= 0.1));
    } else {
      $("slider-name").textContent = "Not calibrated; least similarity";
      slider.max = 100;
      slider.value = 0;
    }
  }

  #filters() {
    const data = new FormData($("filters"));
    $("score-value").textContent = Number(data.get("min_score")).toFixed(2);
    const cameras = data.getAll("camera-on");
    const score = Number(data.get("min_score"));
    return {
      where: {
        cameras: cameras.length ? cameras : null,
        since: withZone(data.get("since")),
        before: withZone(data.get("before")),
        min_score: score > 0 ? score : null,
      },
      grouped: data.get("grouped") !== null,
    };
  }

  #later() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.search(), 250);
  }

  search = tried(async () => {
    this.running?.abort();
    this.running = new AbortController();
    this.hits = [];
    this.moreHits = false;
    if (!wanted.positives.length) {
      $("verdict").hidden = true;
      $("more").textContent = "Pick a person to see where else they appear.";
      this.#show();
      return;
    }
    $("more").textContent = "Searching …";
    if (!$("grid").children.length) {
      $("grid").replaceChildren(...Array.from({ length: 6 }, () => h("li", { class: "card waiting" }, h("div", { class: "open" }), h("div", { class: "facts" }, " "))));
    }
    try {
      await this.#fetch();
      say(`${this.hits.length} hits`);
    } catch (error) {
      if (error.name !== "AbortError") {
        $("grid").replaceChildren();
        $("more").textContent = "No results: see the message at the top.";
      }
      throw error;
    }
  });

  async #fetch() {
    const examples = (items) => items.map((item) => item.example);
    const body = {
      positives: examples(wanted.positives),
      negatives: examples(wanted.negatives),
      ...this.#filters(),
      offset: this.hits.length,
      limit: PAGE,
    };
    const answer = await send("POST", "/api/search", body, this.running.signal);
    this.hits = this.hits.concat(answer.hits);
    this.moreHits = answer.more;
    this.seconds = answer.seconds;
    this.#show();
  }

  #next = tried(async () => {
    if (!this.moreHits || this.fetching) return;
    this.fetching = true;
    try {
      await this.#fetch();
    } finally {
      this.fetching = false;
    }
  });

  #show() {
    const grid = $("grid");
    const focused = document.activeElement?.closest?.("#grid [data-person]")?.dataset;
    const action = document.activeElement?.dataset?.action;
    grid.replaceChildren(...this.hits.map((hit) => this.#card(hit)));
    // Cards are made anew, the keyboard stays where it was.
    if (focused && action) grid.querySelector(`[data-person="${focused.person}"] [data-action="${action}"]`)?.focus();
    this.#judge();
    if (wanted.positives.length) {
      const count = `${number.format(this.hits.length)} hits`;
      $("more").textContent = this.hits.length
        ? `${count}${this.moreHits ? ", more below" : ""}, in ${Math.round(this.seconds * 1000)} ms`
        : "No hit fits these filters.";
    }
    drawTimeline($("timeline"), this.hits, this.decisions(), (hit) => this.open(hit));
  }

  #card(hit) {
    const kept = this.decisions().get(hit.id);
    const kind = markOf(hit.id) ?? { confirmed: "right", rejected: "wrong" }[kept] ?? null;
    const state = { right: " confirmed", wrong: " rejected" }[kind] ?? "";
    const item = () => ({ example: { person: hit.id }, picture: thumbnail(hit.id), label: `${hit.camera} ${when(hit)}` });
    const press = (pressed) => () => {
      // Who is looked for counts as right; a case keeps it when the user says so.
      const decided = kept !== undefined || !this.deciding();
      const next = kind === pressed && decided ? null : pressed;
      this.marked(hit, next);
      mark(item(), next);
    };
    const name = `${hit.camera || "no camera"}, ${when(hit)}`;
    const chance = hit.probability === null ? null : h("div", {}, `about ${Math.round(hit.probability * 100)} % likely right`);
    return h(
      "li",
      { class: `card${state}`, "data-person": hit.id, "data-similarity": hit.similarity },
      h("button", { type: "button", class: "open", "data-action": "open", "aria-label": `Open the scene of ${name}`, onclick: () => this.open(hit) },
        hit.has_thumbnail ? h("img", { src: thumbnail(hit.id), alt: "", loading: "lazy" }) : "no picture kept"),
      h("div", { class: "facts" }, h("strong", {}, hit.similarity.toFixed(3)), chance,
        h("div", {}, hit.camera || "no camera"), h("div", { class: "quiet" }, when(hit)),
        hit.rows > 1 ? h("div", { class: "quiet" }, `${hit.rows} pictures`) : null),
      h("div", { class: "marks" },
        h("button", { type: "button", class: "right", "data-action": "right", "aria-pressed": kind === "right", "aria-label": `Right: ${name}`, onclick: press("right") }, "Right"),
        h("button", { type: "button", class: "wrong", "data-action": "wrong", "aria-pressed": kind === "wrong", "aria-label": `Wrong: ${name}`, onclick: press("wrong") }, "Wrong"),
        h("button", { type: "button", "data-action": "look", "aria-label": `Look for this person: ${name}`, onclick: () => lookFor(item()) }, "Find")),
    );
  }

  // The slider costs no request: thresholds came with the gallery.
  #judge() {
    const banner = $("verdict");
    banner.hidden = !wanted.positives.length || !this.hits.length;
    const value = Number($("slider").value);
    const calibrated = this.thresholds.length > 0;
    const least = calibrated ? this.thresholds[value].similarity : value / 100;
    $("slider-value").textContent = calibrated ? `${this.thresholds[value].false_alarms} (similarity ${least.toFixed(3)})` : least.toFixed(2);
    const above = this.hits.filter((hit) => hit.similarity >= least).length;
    banner.classList.toggle("nobody", above === 0);
    $("verdict-text").textContent = above
      ? `${above} of ${this.hits.length} hits are above the threshold.`
      : "Probably nobody here: no hit is above the threshold.";
    for (const card of $("grid").children) {
      card.classList.toggle("below", Number(card.dataset.similarity) < least);
    }
  }
}

export const galleryInfo = () => get("/api/gallery");
