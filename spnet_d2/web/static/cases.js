// Case folders: decisions and notes that are kept, reopened and exported.

import { download, get, send, url } from "./api.js";
import { $, h, say, time, tried, when } from "./dom.js";
import { changes } from "./state.js";

const KEY = "spnet-case";

export class Cases {
  constructor({ searchAgain }) {
    this.searchAgain = searchAgain;
    this.open = null;
    $("new-case").addEventListener("submit", (event) => {
      event.preventDefault();
      tried(() => this.#create(event.target))();
    });
    $("case-choice").addEventListener("change", (event) => tried(() => this.choose(event.target.value))());
  }

  // person -> decision, of the open case.
  decisions() {
    return new Map((this.open?.sightings ?? []).map((s) => [s.person, s.decision]));
  }

  async start() {
    await this.#list();
    const kept = localStorage.getItem(KEY);
    if (kept && [...$("case-choice").options].some((option) => option.value === kept)) await this.choose(kept);
  }

  async choose(id) {
    this.open = id ? await get(`/api/cases/${id}`) : null;
    localStorage.setItem(KEY, id);
    $("case-choice").value = id;
    this.#view();
    changes.dispatchEvent(new Event("case"));
  }

  // A hit was marked right or wrong; null takes the mark back.
  async decide(hit, kind, queries) {
    if (!this.open) return;
    const path = `/api/cases/${this.open.id}/sightings/${hit.id}`;
    if (kind === null) {
      if (!this.decisions().has(hit.id)) return;
      this.open = await send("DELETE", path);
    } else {
      const decision = kind === "right" ? "confirmed" : "rejected";
      const note = this.open.sightings.find((s) => s.person === hit.id)?.note ?? "";
      this.open = await send("PUT", path, { decision, note, similarity: hit.similarity, probability: hit.probability });
    }
    if (!this.open.queries.length && queries.length) await this.keepQueries(queries);
    this.#view();
    changes.dispatchEvent(new Event("case"));
  }

  async keepQueries(queries) {
    for (const query of queries) this.open = await send("POST", `/api/cases/${this.open.id}/queries`, query);
  }

  async #create(form) {
    const made = await send("POST", "/api/cases", { name: new FormData(form).get("name") });
    form.reset();
    await this.#list();
    await this.choose(made.id);
    say(`Case ${made.name} made`);
  }

  async #list() {
    const cases = await get("/api/cases");
    $("case-choice").replaceChildren(
      h("option", { value: "" }, "none"),
      ...cases.map((c) => h("option", { value: c.id }, c.name)),
    );
    $("case-choice").value = this.open?.id ?? "";
    $("case-list").replaceChildren(
      cases.length
        ? h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["Name", "Confirmed", "Sightings", "Changed", ""].map((t) => h("th", { scope: "col" }, t)))),
            h("tbody", {}, cases.map((c) => this.#row(c)))))
        : h("p", { class: "quiet" }, "No case yet. Make one; marks that you give to hits are then kept in it."),
    );
  }

  #row(summary) {
    return h("tr", {}, h("td", {}, summary.name), h("td", {}, String(summary.confirmed)), h("td", {}, String(summary.sightings)), h("td", {}, time(summary.changed)),
      h("td", {}, h("button", { type: "button", class: "plain", onclick: tried(() => this.choose(summary.id)) }, "Open")));
  }

  #view() {
    const place = $("case-view");
    if (!this.open) {
      place.replaceChildren();
      return;
    }
    const { open } = this;
    const notes = h("textarea", { maxlength: "100000", "aria-label": "Notes" });
    notes.value = open.notes;
    notes.addEventListener("change", tried(async () => {
      this.open = await send("PATCH", `/api/cases/${open.id}`, { notes: notes.value });
      say("Notes saved");
    }));
    const remove = tried(async () => {
      if (!confirm(`Delete the case "${open.name}" with its pictures?`)) return;
      await send("DELETE", `/api/cases/${open.id}`);
      await this.choose("");
      await this.#list();
    });
    place.replaceChildren(
      h("h3", {}, open.name),
      h("label", {}, "Notes", notes),
      h("div", { class: "tools" },
        h("button", { type: "button", id: "export", onclick: tried(() => download(`/api/cases/${open.id}/export`, "case.zip")) }, "Export as ZIP"),
        h("button", { type: "button", class: "plain", disabled: !open.queries.length, onclick: tried(() => this.searchAgain(open)) }, "Search again"),
        h("button", { type: "button", class: "plain", onclick: remove }, "Delete case")),
      this.#pictures("Searched for", open.queries, (q) => `query ${q.number}`),
      ...["confirmed", "open", "rejected"].map((decision) =>
        this.#pictures(decision[0].toUpperCase() + decision.slice(1), open.sightings.filter((s) => s.decision === decision), (s) => `${s.camera || "no camera"}, ${when(s)}`)),
    );
  }

  #pictures(title, items, text) {
    if (!items.length) return null;
    const picture = (item) => item.picture && url(`/api/cases/${this.open.id}/pictures/${item.picture}`, { changed: this.open.changed });
    return h("section", {}, h("h4", {}, `${title} (${items.length})`), h("ul", { class: "grid" }, items.map((item) =>
      h("li", { class: "card" }, h("div", { class: "open" }, picture(item) ? h("img", { src: picture(item), alt: text(item), loading: "lazy" }) : "no picture"),
        h("div", { class: "facts" }, text(item), item.person === undefined ? null : this.#note(item))))));
  }

  #note(sighting) {
    const field = h("input", { maxlength: "1000", "aria-label": "Note", placeholder: "note" });
    field.value = sighting.note;
    field.addEventListener("change", tried(async () => {
      const { person, decision, similarity, probability } = sighting;
      this.open = await send("PUT", `/api/cases/${this.open.id}/sightings/${person}`, { decision, similarity, probability, note: field.value });
      say("Note saved");
    }));
    return field;
  }
}
