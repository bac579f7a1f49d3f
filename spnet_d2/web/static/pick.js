// Picking a person: scenes by camera and time, or an uploaded picture.

import { get, upload, url } from "./api.js";
import { $, h, say, tried, when, withZone } from "./dom.js";
import { SceneView } from "./scene.js";
import { lookFor } from "./state.js";

const PAGE = 40;

export function startPicking() {
  const form = $("browse");
  const strip = $("strip");
  let shown = null;

  const picker = new SceneView($("picker"), {
    pick: (person, index) => lookFor(shown.person(person, index)),
    draw: (box) => lookFor(shown.drawn(box)),
  });

  async function showScene(scene, button) {
    const where = { source: scene.source, frame: scene.frame };
    const view = await get("/api/scene", where);
    for (const other of strip.children) other.setAttribute("aria-pressed", other === button);
    shown = inScene(view);
    picker.show(view, view.problem ? null : url("/api/scene/image", where), {
      title: `${scene.camera}, ${when(scene)}`,
      reason: view.problem,
    });
    say(`${view.people.length} people in this scene`);
  }

  async function showStrip(offset = 0) {
    const data = new FormData(form);
    const parameters = { camera: data.get("camera"), since: withZone(data.get("since")), offset, limit: PAGE };
    const { scenes, more } = await get("/api/scenes", parameters);
    const buttons = scenes.map((scene) => {
      const label = `${scene.time ? when(scene) : `${scene.source} ${scene.position}`} · ${scene.people}`;
      const button = h("button", { type: "button", "aria-pressed": "false", title: `${scene.camera}, ${scene.people} people` }, label);
      button.addEventListener("click", tried(() => showScene(scene, button)));
      return button;
    });
    if (offset) buttons.unshift(page("Earlier", offset - PAGE));
    if (more) buttons.push(page("Later", offset + PAGE));
    if (!buttons.length) buttons.push(h("p", { class: "quiet" }, "No scene with people here; choose another camera or time."));
    strip.replaceChildren(...buttons);
    strip.scrollLeft = 0;
    if (scenes.length) await showScene(scenes[0], buttons[offset ? 1 : 0]);
    else picker.clear();
  }

  const page = (text, offset) =>
    h("button", { type: "button", onclick: tried(() => showStrip(Math.max(0, offset))) }, text);

  async function showUpload(file) {
    if (!file) return;
    say("Looking for people in your picture");
    picker.root.replaceChildren(h("p", { class: "quiet" }, "Looking for people in your picture …"));
    try {
      const view = await upload(file);
      const image = URL.createObjectURL(file);
      shown = inUpload(view, image);
      picker.show(view, image, { title: file.name });
      say(`${view.people.length} people found in your picture`);
    } catch (error) {
      picker.clear();
      throw error;
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    tried(showStrip)();
  });
  $("upload").addEventListener("change", (event) => {
    tried(showUpload)(event.target.files[0]);
    // The same file can be chosen again.
    event.target.value = "";
  });
  dropZone($("drop"), tried(showUpload));
  return { showStrip: tried(showStrip) };
}

function dropZone(zone, use) {
  for (const name of ["dragenter", "dragover"]) {
    zone.addEventListener(name, (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
  }
  for (const name of ["dragleave", "drop"]) {
    zone.addEventListener(name, (event) => {
      event.preventDefault();
      zone.classList.remove("over");
      if (name === "drop") use(event.dataTransfer.files[0]);
    });
  }
}

// How an indexed scene's people and boxes become examples of the person to look for.
export function inScene(view) {
  const scene = { source: view.source, frame: view.frame };
  const crop = (box) => url("/api/scene/image", { ...scene, box: box.join(",") });
  const drawn = (box) => ({ example: { ...scene, box }, picture: crop(box), label: "your box" });
  return {
    person: (person) =>
      person.id === null
        ? drawn(person.box)
        : { example: { person: person.id }, picture: person.has_thumbnail ? `/api/people/${person.id}/thumbnail` : crop(person.box), label: `${person.camera} ${when(person)}` },
    drawn,
  };
}

function inUpload(view, image) {
  const drawn = (box) => ({ example: { upload: view.id, box }, picture: cut(image, box), label: "your picture" });
  return { person: (person) => drawn(person.box), drawn };
}

// A canvas with the box of an image that only the browser has.
function cut(address, [x, y, width, height]) {
  const canvas = h("canvas", { width: 90, height: 120, role: "img", "aria-label": "your picture" });
  const image = new Image();
  image.onload = () => {
    const scale = Math.min(90 / width, 120 / height);
    const [w, t] = [width * scale, height * scale];
    canvas.getContext("2d").drawImage(image, x, y, width, height, (90 - w) / 2, (120 - t) / 2, w, t);
  };
  image.src = address;
  return canvas;
}
