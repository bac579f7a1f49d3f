// What the user is looking for, and the marks given: the one thing all parts of the page share.

export const wanted = {
  // [{example, picture, label}]
  positives: [],
  negatives: [],
};

export const changes = new EventTarget();
const tell = (name) => changes.dispatchEvent(new Event(name));

// Somebody new: what was looked for before, and what was marked then, is over.
export function lookFor(item) {
  wanted.positives = [item];
  wanted.negatives = [];
  tell("wanted");
}

export function clear() {
  wanted.positives = [];
  wanted.negatives = [];
  tell("wanted");
}

export function remove(item) {
  wanted.positives = wanted.positives.filter((other) => other !== item);
  wanted.negatives = wanted.negatives.filter((other) => other !== item);
  if (!wanted.positives.length) wanted.negatives = [];
  tell("wanted");
}

const same = (person) => (item) => item.example.person === person;

// "right", "wrong" or null for a hit.
export function markOf(person) {
  if (wanted.positives.some(same(person))) return "right";
  return wanted.negatives.some(same(person)) ? "wrong" : null;
}

export function mark(item, kind) {
  const { person } = item.example;
  const others = wanted.positives.filter((other) => !same(person)(other));
  // Who is looked for stays, however often the mark is taken back.
  if (kind === null && !others.length && markOf(person) === "right") return;
  wanted.positives = others;
  wanted.negatives = wanted.negatives.filter((other) => !same(person)(other));
  if (kind === "right") wanted.positives.push(item);
  if (kind === "wrong") wanted.negatives.push(item);
  // At least one picture of the person has to be left.
  if (!wanted.positives.length) wanted.negatives = [];
  tell("wanted");
}
