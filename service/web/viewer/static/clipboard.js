/** Copying, also where a page without TLS has no clipboard. */

import { element } from "./elements.js";

/** @returns {Promise<boolean>} whether the browser did it */
export async function copyText(text) {
  const copied = await navigator.clipboard?.writeText(text).then(() => true, () => false);
  return copied || copyBySelection(text);
}

function copyBySelection(text) {
  const focused = document.activeElement;
  const field = element("textarea", { value: text, className: "unseen" });
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  focused.focus();
  return copied;
}
