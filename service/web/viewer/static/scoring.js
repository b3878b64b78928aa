/** Asks `/score` of the service that this page comes from. */

/** Why there is no answer, as the service words it wherever it said something. */
export class Refusal extends Error {
  /**
   * @param {string} message
   * @param {number} status of the answer; 0 if there was none
   * @param {number} retryAfter seconds, as the service asks for; 0 if it does not
   */
  constructor(message, status = 0, retryAfter = 0) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }

  /** Whether it is about the photo rather than about the request. */
  get aboutPhoto() {
    return this.status === 400 && /^row \d+: /.test(this.message);
  }

  get wantsKey() {
    return this.status === 401 || this.status === 403;
  }
}

/**
 * @param {string} image base64 or an address
 * @param {string} key of the API, or ""
 * @param {AbortSignal} signal drops the request
 * @returns {Promise<{boxes: object[], text: string, milliseconds: number}>} `text` is the whole
 *   answer as it came; `milliseconds` is how long scoring took, NaN where it was not said
 */
export async function score(image, key, signal) {
  const headers = { "Content-Type": "application/json" };
  if (key) headers.Authorization = `Bearer ${key}`;
  const body = JSON.stringify({ input_data: { columns: ["image"], data: [image] } });
  let response, text;
  try {
    response = await fetch("score", { method: "POST", headers, body, signal });
    text = await response.text();
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Refusal("The service cannot be reached.");
  }
  const answer = parsed(text);
  if (!response.ok) {
    const message = answer?.message ?? `${response.status} ${response.statusText}`;
    throw new Refusal(message, response.status, Number(response.headers.get("retry-after")) || 0);
  }
  if (!Array.isArray(answer?.[0]?.boxes)) throw new Refusal("The answer is no list of boxes.", 200);
  const milliseconds = parseFloat(response.headers.get("x-ms-run-fn-exec-ms"));
  return { boxes: answer[0].boxes, text, milliseconds };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
