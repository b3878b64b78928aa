/** What one answer shows: a mask, a label and a row of the table for each instance. */

import { element } from "./elements.js";
import { area, fillPath, outlinePath, topmost } from "./geometry.js";

const SVG = "http://www.w3.org/2000/svg";
const FIRST_HUE = 265;
const GOLDEN_ANGLE = 137.508; // neighbours in the list never look alike, however long it is
const MAX_SHIFT = 4; // heights of a label: farther off it would say nothing of its mask

/** All instances of a photo. An instance that is lit stands out from the others. */
export class Instances {
  #items = [];
  #masks;
  #labels;
  #rows;
  #pinned = null;

  /**
   * @param {SVGElement} masks of one unit each way, over the photo
   * @param {HTMLElement} labels as large as the photo
   * @param {HTMLElement} rows the body of the table
   */
  constructor(masks, labels, rows) {
    this.#masks = masks;
    this.#labels = labels;
    this.#rows = rows;
    new ResizeObserver(() => this.#placeLabels()).observe(labels);
    rows.addEventListener("keydown", (event) => this.#moveFocus(event));
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.#pin(null));
  }

  /**
   * @param {object[]} boxes of an answer, best first
   * @param {?{width: number, height: number}} size of the photo in pixels, where it is known
   */
  draw(boxes, size) {
    this.#pinned = null;
    this.#items = boxes.map((box, i) => newItem(box, i, size));
    for (const item of this.#items) {
      for (const part of [item.mask, item.row]) {
        part.addEventListener("pointerenter", () => this.#light(item));
        part.addEventListener("pointerleave", () => this.#light(this.#pinned));
        part.addEventListener("click", () => this.#pin(this.#pinned === item ? null : item));
      }
      item.button.addEventListener("focus", () => this.#light(item));
      item.button.addEventListener("blur", () => this.#light(this.#pinned));
    }
    const largestFirst = this.#items.toSorted((a, b) => b.area - a.area);
    this.#masks.replaceChildren(...largestFirst.map((item) => item.mask));
    this.#labels.replaceChildren(...this.#items.map((item) => item.label));
    this.#rows.replaceChildren(...this.#items.map((item) => item.row));
    this.#light(null);
  }

  /** Show those whose score, as it is written, is at least this. @returns {object[]} their boxes */
  showFrom(threshold) {
    for (const item of this.#items) {
      item.shown = Number(rounded(item.box.score)) >= threshold;
      for (const part of parts(item)) part.classList.toggle("below", !item.shown);
    }
    if (this.#pinned && !this.#pinned.shown) this.#pin(null);
    const shown = this.#items.filter((item) => item.shown);
    shown.forEach((item, i) => (item.button.tabIndex = i === 0 ? 0 : -1));
    this.#placeLabels();
    return shown.map((item) => item.box);
  }

  #light(lit) {
    for (const root of [this.#masks, this.#labels]) root.classList.toggle("dimmed", lit !== null);
    for (const item of this.#items) {
      for (const part of parts(item)) part.classList.toggle("lit", item === lit);
    }
  }

  #pin(pinned) {
    this.#pinned = pinned;
    for (const item of this.#items) {
      item.button.setAttribute("aria-pressed", String(item === pinned));
      if (item === pinned) item.row.scrollIntoView({ block: "nearest" });
    }
    this.#light(pinned);
  }

  /** The table is one stop of the Tab key; arrows go from row to row. */
  #moveFocus(event) {
    const buttons = this.#items.filter((item) => item.shown).map((item) => item.button);
    const now = buttons.indexOf(document.activeElement);
    const last = buttons.length - 1;
    const next = { ArrowDown: Math.min(now + 1, last), ArrowUp: Math.max(now - 1, 0), Home: 0, End: last };
    if (now < 0 || !(event.key in next)) return;
    event.preventDefault();
    buttons[now].tabIndex = -1;
    buttons[next[event.key]].tabIndex = 0;
    buttons[next[event.key]].focus();
  }

  /** On top of its mask, within the photo, below better ones that it would cover; else only lit. */
  #placeLabels() {
    const { clientWidth: width, clientHeight: height } = this.#labels;
    const items = this.#items.filter((item) => item.shown);
    const sizes = items.map(({ label }) => [label.offsetWidth, label.offsetHeight]);
    const placed = [];
    items.forEach(({ top, label }, i) => {
      const [w, h] = sizes[i];
      const x = Math.max(0, Math.min(top.x * width - w / 2, width - w));
      const wanted = Math.max(0, Math.min(top.y * height - h - 3, height - h));
      let y = wanted;
      const covered = () =>
        placed.find((p) => x < p.x + p.w && p.x < x + w && y < p.y + p.h && p.y < y + h);
      for (let other = covered(); other; other = covered()) y = other.y + other.h + 1;
      const fits = y + h <= Math.min(height, wanted + MAX_SHIFT * h) || placed.length === 0;
      label.classList.toggle("crowded", !fits);
      label.style.transform = `translate(${x}px, ${fits ? y : wanted}px)`;
      if (fits) placed.push({ x, y, w, h });
    });
  }
}

const parts = (item) => [item.mask, item.label, item.row];

function newItem(box, i, size) {
  const item = { box, area: area(box.polygon), top: topmost(box.polygon[0]), shown: true };
  item.mask = newMask(box);
  item.label = element("span", { className: "label" }, `${box.label} ${rounded(box.score)}`);
  item.button = element("button", { type: "button", className: "instance" }, box.label);
  item.button.setAttribute("aria-label", `${box.label}, score ${rounded(box.score)}`);
  item.button.setAttribute("aria-pressed", "false");
  item.row = newRow(item, size);
  for (const part of parts(item)) part.style.setProperty("--hue", (FIRST_HUE + i * GOLDEN_ANGLE) % 360);
  return item;
}

function newMask({ polygon }) {
  const mask = document.createElementNS(SVG, "g");
  for (const [name, d] of [["fill", fillPath(polygon)], ["outline", outlinePath(polygon)]]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    path.setAttribute("d", d);
    mask.append(path);
  }
  return mask;
}

function newRow({ box, area: share, button }, size) {
  const name = element("th", { scope: "row" }, button);
  const bar = element("span", { className: "bar-of-score" });
  bar.style.setProperty("--score", box.score);
  const score = element("td", {}, rounded(box.score), bar);
  return element("tr", {}, name, score, element("td", {}, sizeOf(box.box, size)), element("td", {}, percent(share)));
}

/** In pixels, or in shares of the photo's sides where these are not known. */
function sizeOf({ topX, topY, bottomX, bottomY }, size) {
  const [width, height] = [bottomX - topX, bottomY - topY];
  if (!size) return `${percent(width)} × ${percent(height)}`;
  return `${Math.round(width * size.width)} × ${Math.round(height * size.height)}`;
}

const rounded = (score) => score.toFixed(2);
const percent = (share) => `${(share * 100).toFixed(share < 0.0995 ? 1 : 0)} %`;
