/** Small pictures to choose from, each with what was found in it. */

import { element } from "./elements.js";

/**
 * @param {object} picture
 * @param {{select: function, remove: function}} actions on the picture
 */
export function newTile(picture, { select, remove }) {
  const choose = element("button", { type: "button", className: "choose" });
  const image = element("img", { alt: "", draggable: false });
  image.addEventListener("error", () => image.classList.add("unseen"));
  image.addEventListener("load", () => image.classList.remove("unseen"));
  choose.append(image, element("span", { className: "badge" }));
  choose.addEventListener("click", () => select(picture));
  const drop = element("button", { type: "button", className: "remove", title: "Remove" }, "×");
  drop.setAttribute("aria-label", `Remove ${picture.name}`);
  drop.addEventListener("click", () => remove(picture));
  return element("li", {}, choose, drop);
}

/** Show what has become of a picture. */
export function refreshTile(picture) {
  const { tile, state, source, answer } = picture;
  const [image, badge] = tile.firstChild.children;
  if (picture.address) image.crossOrigin = "anonymous";
  if (source && image.src !== source) image.src = source;
  tile.className = state;
  const found = state === "scored" ? `${answer.boxes.length} found` : state;
  badge.textContent = { scored: answer?.boxes.length, failed: "!" }[state] ?? "";
  tile.firstChild.setAttribute("aria-label", `${picture.name}, ${found}`);
}
