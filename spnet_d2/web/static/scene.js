// A scene with its people as buttons over the image, and a box drawn by mouse, touch or keyboard.

import { h } from "./dom.js";

const percent = (part, whole) => `${(100 * part) / whole}%`;

const place = ([x, y, width, height], size) => ({
  left: percent(x, size.width),
  top: percent(y, size.height),
  width: percent(width, size.width),
  height: percent(height, size.height),
});

export class SceneView {
  // pick(person, index): a person was chosen; draw(box): a box was drawn. Both get pixels.
  constructor(root, { pick, draw }) {
    this.root = root;
    this.pick = pick;
    this.draw = draw;
  }

  clear() {
    this.root.replaceChildren();
  }

  // scene: {width, height, people: [{box, ...}]}; image: address, or null with a reason.
  show(scene, image, { title, reason, marked } = {}) {
    this.size = { width: scene.width, height: scene.height };
    if (image === null) {
      this.root.replaceChildren(h("p", { class: "quiet" }, reason ?? "The image can't be read."));
      return;
    }
    this.box = null;
    this.drawn = h("div", { class: "drawn", hidden: true });
    this.frame = h(
      "div",
      { class: "scene", style: { aspectRatio: `${scene.width} / ${scene.height}` } },
      h("img", { src: image, alt: title ?? "Scene", draggable: "false" }),
      scene.people.map((person, index) => this.#person(person, index, marked)),
      this.drawn,
    );
    this.#listen();
    this.root.replaceChildren(this.frame, this.#tools(scene.people.length));
  }

  #person(person, index, marked) {
    const hit = marked !== undefined && person.id === marked;
    return h("button", {
      type: "button",
      class: hit ? "person hit" : "person",
      style: place(person.box, this.size),
      title: "Look for this person",
      "aria-label": `Person ${index + 1}${hit ? " (the hit)" : ""}: look for this person`,
      onclick: () => this.pick(person, index),
    });
  }

  #tools(count) {
    this.hint = h("p", { class: "quiet" }, count ? "Click a person, or draw a box." : "Nobody was found here; draw a box.");
    this.toggle = h("button", { type: "button", class: "plain", "aria-pressed": "false", onclick: () => this.#mode(!this.drawing) }, "Draw a box");
    this.accept = h("button", { type: "button", hidden: true, onclick: () => this.#done() }, "Look for the box");
    return h("div", { class: "tools" }, this.toggle, this.accept, this.hint);
  }

  #mode(drawing) {
    this.drawing = drawing;
    this.frame.classList.toggle("drawing", drawing);
    this.toggle.setAttribute("aria-pressed", drawing);
    this.toggle.textContent = drawing ? "Stop drawing" : "Draw a box";
    this.accept.hidden = !drawing;
    if (!drawing) {
      this.drawn.hidden = true;
      return;
    }
    this.hint.textContent = "Drag over the person; or arrow keys move the box, Shift and arrows size it, Enter takes it.";
    const { width, height } = this.size;
    this.#set([width * 0.4, height * 0.3, width * 0.2, height * 0.4]);
    this.drawn.tabIndex = 0;
    this.drawn.setAttribute("role", "group");
    this.drawn.setAttribute("aria-label", "Box: arrow keys move it, Shift and arrow keys size it, Enter looks for it");
    this.drawn.focus();
  }

  #set([x, y, width, height]) {
    const w = Math.min(Math.max(width, 4), this.size.width);
    const t = Math.min(Math.max(height, 4), this.size.height);
    this.box = [Math.min(Math.max(x, 0), this.size.width - w), Math.min(Math.max(y, 0), this.size.height - t), w, t];
    Object.assign(this.drawn.style, place(this.box, this.size));
    this.drawn.hidden = false;
  }

  #done() {
    const box = this.box.map((value) => Math.round(value * 100) / 100);
    this.#mode(false);
    this.draw(box);
  }

  #at(event) {
    const { left, top, width, height } = this.frame.getBoundingClientRect();
    return [((event.clientX - left) / width) * this.size.width, ((event.clientY - top) / height) * this.size.height];
  }

  #listen() {
    const { frame } = this;
    frame.addEventListener("pointerdown", (event) => {
      if (!this.drawing || event.button !== 0) return;
      event.preventDefault();
      this.start = this.#at(event);
      frame.setPointerCapture(event.pointerId);
    });
    frame.addEventListener("pointermove", (event) => {
      if (!this.start) return;
      const [x, y] = this.#at(event);
      const [a, b] = this.start;
      this.#set([Math.min(a, x), Math.min(b, y), Math.abs(x - a), Math.abs(y - b)]);
    });
    frame.addEventListener("pointerup", () => {
      if (!this.start) return;
      this.start = null;
      this.drawn.focus();
    });
    frame.addEventListener("pointercancel", () => { this.start = null; });
    this.drawn.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key === "Enter") {
      event.preventDefault();
      this.#done();
    } else if (event.key === "Escape") {
      // Only the drawing ends, not the dialog around it.
      event.preventDefault();
      event.stopPropagation();
      this.#mode(false);
      this.toggle.focus();
    } else if (event.key in steps) {
      event.preventDefault();
      const step = Math.max(this.size.width, this.size.height) / 100;
      const [dx, dy] = steps[event.key].map((sign) => sign * step);
      const [x, y, width, height] = this.box;
      this.#set(event.shiftKey ? [x, y, width + dx, height + dy] : [x + dx, y + dy, width, height]);
    }
  }
}
