// The page: what its parts are, and how they speak to each other.

import { get, url } from "./api.js";
import { Cases } from "./cases.js";
import { $, h, number, problem, tried, when } from "./dom.js";
import { startFootage } from "./footage.js";
import { inScene, startPicking } from "./pick.js";
import { galleryInfo, Results } from "./results.js";
import { SceneView } from "./scene.js";
import { changes, clear, lookFor, remove, wanted } from "./state.js";

const cases = new Cases({ searchAgain });
const results = new Results({
  open: tried(openScene),
  marked: tried((hit, kind) => cases.decide(hit, kind, wanted.positives.map((item) => item.example))),
  decisions: () => cases.decisions(),
  deciding: () => cases.open !== null,
});
const picking = startPicking();

// The token is in a cookie by now; it should not stay in the address bar, or be bookmarked.
if (new URLSearchParams(location.search).has("token")) {
  history.replaceState(null, "", location.pathname + location.hash);
}

// Pages of the page.
function showPage() {
  const page = ["cases", "footage"].find((name) => location.hash === `#${name}`) ?? "find";
  for (const link of document.querySelectorAll("[data-page]")) {
    const here = link.dataset.page === page;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    $(`page-${link.dataset.page}`).hidden = !here;
  }
  if (page === "footage") footage?.();
}
let footage = null;
addEventListener("hashchange", showPage);

// Light and dark: the system's, until the button says otherwise.
const themes = matchMedia("(prefers-color-scheme: dark)");
function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  $("theme").setAttribute("aria-pressed", (theme ?? (themes.matches ? "dark" : "light")) === "dark");
}
setTheme(localStorage.getItem("spnet-theme"));
$("theme").addEventListener("click", () => {
  const theme = $("theme").getAttribute("aria-pressed") === "true" ? "light" : "dark";
  localStorage.setItem("spnet-theme", theme);
  setTheme(theme);
});

// Who is looked for.
function showWanted() {
  for (const [id, items] of [["positives", wanted.positives], ["negatives", wanted.negatives]]) {
    $(id).replaceChildren(...items.map((item) => {
      const picture = typeof item.picture === "string" ? h("img", { src: item.picture, alt: item.label }) : item.picture;
      return h("li", {}, picture ?? h("span", { class: "blank" }, item.label),
        h("button", { type: "button", "aria-label": `Remove: ${item.label}`, onclick: () => remove(item) }, "×"));
    }));
  }
  $("wanted-empty").hidden = wanted.positives.length > 0;
  $("clear").hidden = wanted.positives.length === 0;
}
changes.addEventListener("wanted", showWanted);
$("clear").addEventListener("click", clear);

// The scene of a hit, and 10 s before and after.
const dialog = $("scene-dialog");
let opened = null;
let asked = 0;
const dialogScene = new SceneView($("dialog-scene"), {
  pick: (person) => chosen(opened.of.person(person)),
  draw: (box) => chosen(opened.of.drawn(box)),
});
function chosen(item) {
  dialog.close();
  lookFor(item);
}
async function openScene(hit) {
  opened = { hit };
  $("seconds").value = 0;
  dialogScene.clear();
  if (!dialog.open) dialog.showModal();
  await showAround(0);
}
async function showAround(seconds) {
  const turn = ++asked;
  $("seconds-value").textContent = seconds > 0 ? `+${seconds}` : String(seconds);
  const { hit } = opened;
  const view = await get("/api/scene", { source: hit.source, frame: hit.frame, offset: seconds });
  // A slower answer to an earlier place of the slider.
  if (turn !== asked) return;
  opened.of = inScene(view);
  $("dialog-title").textContent = `${view.camera || "no camera"}, ${when(view)}`;
  $("seconds").disabled = Boolean(view.problem);
  const image = view.problem ? null : url("/api/scene/image", { source: view.source, frame: view.frame });
  dialogScene.show(view, image, { title: $("dialog-title").textContent, reason: view.problem, marked: hit.id });
  if (view.problem && hit.has_thumbnail) {
    $("dialog-scene").append(h("img", { src: `/api/people/${hit.id}/thumbnail`, alt: "the kept picture" }));
  }
}
let moving = null;
$("seconds").addEventListener("input", (event) => {
  const seconds = Number(event.target.value);
  $("seconds-value").textContent = seconds > 0 ? `+${seconds}` : String(seconds);
  clearTimeout(moving);
  moving = setTimeout(tried(() => showAround(seconds)), 150);
});
$("dialog-close").addEventListener("click", () => dialog.close());

// A kept case's queries become what is looked for. Uploads are forgotten, so they are left out.
function searchAgain(open) {
  const usable = open.queries.filter((query) => query.example !== null);
  if (!usable.length) throw new Error("This case's queries were uploads, which are not kept: upload the picture again.");
  const items = usable.map((query) => ({ example: query.example, picture: query.picture && `/api/cases/${open.id}/pictures/${query.picture}`, label: `query ${query.number}` }));
  wanted.positives = items;
  wanted.negatives = [];
  location.hash = "#find";
  changes.dispatchEvent(new Event("wanted"));
}

async function refresh() {
  const info = await galleryInfo();
  $("summary").textContent = info.people
    ? `${number.format(info.people)} pictures of people, ${info.cameras.length} ${info.cameras.length === 1 ? "camera" : "cameras"}`
    : "The gallery is empty: add footage.";
  const select = $("browse").elements.camera;
  const { value } = select;
  select.replaceChildren(h("option", { value: "" }, "all"), ...info.cameras.map((camera) => h("option", { value: camera.name }, camera.name || "no camera")));
  select.value = value;
  $("upload").disabled = !info.can_embed;
  results.setGallery(info);
  return info;
}

try {
  const info = await refresh();
  footage = startFootage({ canAdd: info.can_add, changed: refresh });
  showPage();
  await cases.start();
  showWanted();
  await results.search();
  if (info.people) await picking.showStrip();
} catch (error) {
  problem(error);
}
