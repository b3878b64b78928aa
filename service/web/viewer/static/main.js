/** The page: which photos there are, which is shown, and what the visitor does with them. */

import { copyText } from "./clipboard.js";
import { element } from "./elements.js";
import { Instances } from "./instances.js";
import { encoded, liesOnSide, prepared, upright } from "./pictures.js";
import { Refusal, score } from "./scoring.js";
import { curl, python } from "./snippets.js";
import { newTile, refreshTile } from "./strip.js";

/**
 * @typedef {object} Picture
 * @property {string} name
 * @property {?Blob} file as it was given; null for an address
 * @property {?string} address
 * @property {?Blob} blob what is sent of a file
 * @property {boolean} copied whether that is another than the file
 * @property {boolean} onSide whether it is looked at as the camera stored it, which is not upright
 * @property {string} source what the browser shows: a blob's address or the photo's own
 * @property {boolean} hidden whether the browser cannot show it
 * @property {"waiting"|"scoring"|"scored"|"failed"} state
 * @property {string[]} notes for the visitor
 * @property {?object} answer
 * @property {?Error} error
 * @property {AbortController} abort drops its request
 * @property {HTMLElement} tile in the strip
 */

const AT_ONCE = 2; // requests; a batch can form and others still have their turn

const $ = (id) => document.getElementById(id);
const instances = new Instances($("masks"), $("labels"), $("rows"));
/** @type {Picture[]} */
const pictures = [];
let current = null;
let asking = 0;
let apiKey = "";

// ---- Photos in -------------------------------------------------------------

function addFiles(files) {
  add([...files].map((file) => newPicture({ name: file.name || "pasted photo", file })));
}

function addAddress(text) {
  if (!/^\s*https?:/i.test(text) || !URL.canParse(text)) return false;
  const url = new URL(text);
  const name = decodedName(url) || url.host;
  add([newPicture({ name, address: url.href, source: url.href })]);
  return true;
}

function decodedName(url) {
  const last = url.pathname.split("/").pop();
  try {
    return decodeURIComponent(last);
  } catch {
    return last;
  }
}

function newPicture(given) {
  const empty = { file: null, address: null, blob: null, source: "", answer: null, error: null };
  const picture = { ...empty, ...given, notes: [], state: "waiting", abort: new AbortController() };
  picture.tile = newTile(picture, { select, remove });
  return picture;
}

function add(added) {
  if (added.length === 0) return;
  pictures.push(...added);
  $("strip").append(...added.map((picture) => picture.tile));
  select(added[0]);
  askNext();
}

function remove(picture) {
  const at = pictures.indexOf(picture);
  const hadFocus = picture.tile.contains(document.activeElement);
  picture.abort.abort();
  pictures.splice(at, 1);
  picture.tile.remove();
  if (picture.file) URL.revokeObjectURL(picture.source);
  if (picture === current) select(pictures[Math.min(at, pictures.length - 1)] ?? null);
  if (hadFocus) (current?.tile.querySelector("button") ?? $("files")).focus();
}

// ---- To the service and back -----------------------------------------------

async function askNext() {
  const picture = pictures.find((candidate) => candidate.state === "waiting");
  if (!picture || asking >= AT_ONCE) return;
  asking += 1;
  change(picture, { state: "scoring", error: null });
  askNext();
  try {
    if (picture.file && !picture.blob) await prepare(picture);
    const image = picture.address ?? (await encoded(picture.blob));
    change(picture, { answer: await score(image, apiKey, picture.abort.signal), state: "scored" });
  } catch (error) {
    if (!picture.abort.signal.aborted) change(picture, { error, state: "failed" });
    if (error instanceof Refusal && error.wantsKey) askForKey();
  } finally {
    asking -= 1;
    askNext();
  }
}

async function prepare(picture, copy = prepared) {
  const { blob, copied, note } = await copy(picture.file).catch(() => {
    throw new Error("This browser can neither send the file, which is too large, nor read it.");
  });
  const onSide = !copied && (await liesOnSide(picture.file));
  picture.abort.signal.throwIfAborted();
  picture.copied = copied;
  picture.notes = note ? [note] : [];
  picture.onSide = onSide;
  if (picture.source) URL.revokeObjectURL(picture.source);
  change(picture, { blob, source: URL.createObjectURL(blob) });
}

function again(picture) {
  change(picture, { state: "waiting", error: null });
  askNext();
}

async function turnUpright(picture) {
  change(picture, { state: "scoring", answer: null });
  try {
    await prepare(picture, upright);
    again(picture);
  } catch (error) {
    change(picture, { error, state: "failed" });
  }
}

function askForKey() {
  $("key").open = true;
  $("key-field").focus();
}

/** Note what has become of a picture, and show it. */
function change(picture, changes) {
  const newSource = "source" in changes;
  Object.assign(picture, changes);
  refreshTile(picture);
  if (picture === current) newSource ? show(picture) : refresh(picture);
}

// ---- What is seen ----------------------------------------------------------

function select(picture) {
  current = picture;
  document.body.classList.toggle("empty", picture === null);
  for (const other of pictures) {
    other.tile.firstChild.setAttribute("aria-current", String(other === picture));
  }
  if (picture) show(picture);
}

function show(picture) {
  const photo = $("photo");
  $("frame").classList.remove("blank");
  picture.hidden = false;
  // Another host's photo is shown only if that host lets pages read it; only then does the browser
  // leave it on its stored pixels, which the masks refer to.
  if (picture.address) photo.crossOrigin = "anonymous";
  else photo.removeAttribute("crossorigin");
  if (picture.source) photo.src = picture.source;
  else photo.removeAttribute("src");
  photo.alt = picture.name;
  refresh(picture);
}

function refresh(picture) {
  const { state, error, answer } = picture;
  $("name").textContent = picture.name;
  $("frame").classList.toggle("scoring", state === "scoring" || state === "waiting");
  $("frame").classList.toggle("drawn", Boolean(answer));
  $("found").hidden = !answer;
  showProblem(error);
  showNotes(picture);
  instances.draw(answer?.boxes ?? [], shownSize());
  if (answer) filter();
  else announce(error ? "" : "Scoring …");
}

function filter() {
  const threshold = Number($("threshold").value);
  $("threshold-value").textContent = threshold.toFixed(2);
  if (!current?.answer) return;
  const { boxes, milliseconds } = current.answer;
  const shown = instances.showFrom(threshold);
  const count = `${shown.length} of ${boxes.length} ${boxes.length === 1 ? "instance" : "instances"}`;
  const time = Number.isNaN(milliseconds) ? "" : ` · ${Math.round(milliseconds)} ms`;
  $("nothing").hidden = shown.length > 0;
  $("nothing").textContent = boxes.length ? "Nothing scores that high." : "Nothing was found.";
  const names = shown.map((box) => `${box.label} ${box.score.toFixed(2)}`).join(", ");
  $("masks").setAttribute("aria-label", `Masks: ${names || "none"}`);
  announce(`${count} shown${time}`);
}

function showProblem(error) {
  $("problem").hidden = !error;
  if (!error) return;
  const status = error.status ? ` · ${error.status}` : "";
  $("problem-kind").textContent = error.aboutPhoto ? "This photo was refused" : `The request failed${status}`;
  const later = error.retryAfter ? ` (Again in ${error.retryAfter} s.)` : "";
  $("problem-text").textContent = error.message + later;
}

function showNotes(picture) {
  const notes = picture.notes.map((note) => element("li", {}, note));
  if (picture.onSide && (picture.answer || picture.error)) {
    const turn = element("button", { type: "button" }, "Turn it upright");
    turn.addEventListener("click", () => turnUpright(picture));
    const why = "The camera stored this photo turned, and the service looks at it as it is stored. ";
    notes.push(element("li", {}, why, turn));
  }
  if (picture.hidden && picture.answer) {
    const host = "The photo’s host does not let this page show it: masks of unknown proportions.";
    const format = "This browser cannot show the file: masks of unknown proportions.";
    notes.push(element("li", {}, picture.address ? host : format));
  }
  $("notes").replaceChildren(...notes);
}

function announce(text) {
  $("summary").textContent = text;
  $("status").textContent = text && current ? `${current.name}: ${text}` : "";
}

/** The shown photo's pixels. `naturalWidth` takes a turn into account that is not made here. */
function shownSize() {
  const photo = $("photo");
  const { width, height } = photo.getBoundingClientRect();
  if (!photo.naturalWidth || !width) return null;
  const [long, short] = [photo.naturalWidth, photo.naturalHeight].sort((a, b) => b - a);
  return width > height ? { width: long, height: short } : { width: short, height: long };
}

// ---- Copies ----------------------------------------------------------------

const copies = {
  json: (picture) => picture.answer.text,
  curl: (picture) => curl(requestOf(picture)),
  python: (picture) => python(requestOf(picture)),
};

function requestOf({ address, name, notes, copied }) {
  const service = new URL("score", document.baseURI).href;
  return { service, address, name, note: copied ? notes[0] : "", withKey: apiKey !== "" };
}

async function copy(kind) {
  toast((await copyText(copies[kind](current))) ? "Copied" : "The browser does not let this page copy");
}

let toastTimer;
function toast(text) {
  clearTimeout(toastTimer);
  $("toast").textContent = $("status").textContent = text;
  $("toast").classList.add("shown");
  toastTimer = setTimeout(() => $("toast").classList.remove("shown"), 1800);
}

// ---- Events ----------------------------------------------------------------

for (const input of [$("files"), $("camera")]) {
  input.addEventListener("change", () => {
    addFiles(input.files);
    input.value = ""; // the same file may be chosen again
  });
}

$("address").addEventListener("submit", (event) => {
  event.preventDefault();
  if (addAddress($("address-field").value)) $("address-field").value = "";
});

$("key").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  apiKey = $("key-field").value.trim();
  $("key").open = false;
  $("key").classList.toggle("set", apiKey !== "");
  pictures.filter((picture) => picture.error?.wantsKey).forEach(again);
});

$("threshold").addEventListener("input", filter);
$("again").addEventListener("click", () => again(current));
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy(button.dataset.copy));
}

$("photo").addEventListener("load", () => current && refresh(current));
$("photo").addEventListener("error", () => {
  if (!current) return;
  $("frame").classList.add("blank");
  current.hidden = true;
  refresh(current);
});

document.addEventListener("paste", (event) => {
  const { files } = event.clipboardData;
  if (files.length) addFiles(files);
  else if (event.target instanceof HTMLInputElement) return;
  else if (!addAddress(event.clipboardData.getData("text/plain"))) return;
  event.preventDefault();
});

const offers = ({ dataTransfer }) => ["Files", "text/uri-list"].some((kind) => dataTransfer.types.includes(kind));
document.addEventListener("dragover", (event) => {
  if (!offers(event)) return;
  event.preventDefault();
  document.body.classList.add("dragging");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dragging");
  if (!offers(event)) return;
  event.preventDefault();
  if (event.dataTransfer.files.length) addFiles(event.dataTransfer.files);
  else addAddress(event.dataTransfer.getData("text/uri-list").split("\n")[0]);
});

filter();
