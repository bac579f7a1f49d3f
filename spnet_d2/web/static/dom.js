// Small helpers to make and find elements. Text is always text: nothing is parsed as HTML.

export const $ = (id) => document.getElementById(id);

// h("button", {class: "plain", onclick: f}, "Text", child, ...)
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

let said;

// One sentence for everybody, by eye and by screen reader; errors stay until the next action.
export function say(sentence) {
  $("status").textContent = sentence;
}

export function problem(error) {
  clearTimeout(said);
  const place = $("problem");
  place.textContent = error.message ?? String(error);
  place.hidden = false;
  said = setTimeout(noProblem, 15000);
}

export function noProblem() {
  $("problem").hidden = true;
}

// An event handler whose errors are shown instead of lost.
export const tried = (work) => async (...inputs) => {
  noProblem();
  try {
    return await work(...inputs);
  } catch (error) {
    if (error.name !== "AbortError") problem(error);
    return undefined;
  }
};

export function time(value, withDate = true) {
  if (!value) return "time unknown";
  const options = { hour: "2-digit", minute: "2-digit", second: "2-digit" };
  if (withDate) Object.assign(options, { year: "numeric", month: "short", day: "numeric" });
  return new Date(value).toLocaleString(undefined, options);
}

// When a person or a scene was seen: the time, or where in its source where that is unknown.
export const when = (seen) => (seen.time || !seen.position ? time(seen.time) : seen.position);

// The value of a datetime-local field, which has no zone: the browser's is meant.
export const withZone = (value) => (value ? new Date(value).toISOString() : null);

export const number = new Intl.NumberFormat();
