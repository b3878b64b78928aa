/**
 * Photo files on their way to the service. What is sent is what is shown, so the masks fit: a file
 * goes as it is unless it is too large, or would lie differently here and there.
 */

const { applyExif, maxBodyBytes, maxImageBytes } = document.documentElement.dataset;
const turnsPhotos = applyExif === "true";
// Base64 takes four characters for three bytes; the table around it takes the rest.
const MAX_BYTES = Math.min(Number(maxImageBytes), Math.floor((Number(maxBodyBytes) - 1000) * 0.75));
const MAX_COPY_PIXELS = 16_000_000; // what every browser's canvas holds
const QUALITY = 0.92;

/**
 * @param {Blob} file
 * @returns {Promise<{blob: Blob, note: string, copied: boolean}>} what to send; `note` says in what
 *   it differs from the file, if it does
 */
export async function prepared(file) {
  if (file.size > MAX_BYTES) {
    const { blob, width, height } = await copyOf(file);
    const limit = `${megabytes(file.size)} are more than the service takes (${megabytes(MAX_BYTES)})`;
    return { blob, copied: true, note: `${limit}: scored from a copy of ${width} × ${height} pixels.` };
  }
  if (turnsPhotos && (await isWebpWithExif(file))) {
    const { blob } = await copyOf(file);
    const reason = "Browsers do not turn WebP files as their EXIF says";
    return { blob, copied: true, note: `${reason}: scored from a copy as it is shown.` };
  }
  return { blob: file, copied: false, note: "" };
}

/** The same for a photo whose file says that it lies on its side: a copy that does not. */
export async function upright(file) {
  const { blob, width, height } = await copyOf(file);
  return { blob, copied: true, note: `Scored from an upright copy of ${width} × ${height} pixels.` };
}

/** Whether the service looks at this photo as it is stored, and it is not stored upright. */
export async function liesOnSide(file) {
  return !turnsPhotos && orientation(await firstBytes(file, 256 * 1024)) > 1;
}

/** @returns {Promise<string>} base64 */
export function encoded(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** A JPEG that is small enough, upright, and says nothing of which way up it is. */
async function copyOf(file) {
  const bitmap = await createImageBitmap(file);
  const canvas = document.createElement("canvas");
  let scale = Math.min(1, Math.sqrt(MAX_COPY_PIXELS / (bitmap.width * bitmap.height)));
  for (;;) {
    canvas.width = Math.max(1, Math.floor(bitmap.width * scale));
    canvas.height = Math.max(1, Math.floor(bitmap.height * scale));
    canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const blob = await new Promise((done) => canvas.toBlob(done, "image/jpeg", QUALITY));
    if (blob.size <= MAX_BYTES || canvas.width * canvas.height === 1) {
      bitmap.close();
      return { blob, width: canvas.width, height: canvas.height };
    }
    scale *= Math.min(0.9, Math.sqrt(MAX_BYTES / blob.size));
  }
}

/** EXIF's orientation of a JPEG, 1 to 8; 1, upright, where it does not say. */
function orientation(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  try {
    if (view.getUint16(0) !== 0xffd8) return 1;
    for (let at = 2; view.getUint16(at) !== 0xffda; at += 2 + view.getUint16(at + 2)) {
      if (view.getUint16(at) === 0xffe1 && view.getUint32(at + 4) === 0x45786966) {
        return orientationOfTiff(new DataView(bytes.buffer, bytes.byteOffset + at + 10));
      }
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // the file ends early: it says nothing
  }
  return 1;
}

function orientationOfTiff(view) {
  const little = view.getUint16(0) === 0x4949;
  const directory = view.getUint32(4, little);
  const entries = view.getUint16(directory, little);
  for (let entry = directory + 2; entry < directory + 2 + 12 * entries; entry += 12) {
    if (view.getUint16(entry, little) === 274) return view.getUint16(entry + 8, little);
  }
  return 1;
}

async function isWebpWithExif(file) {
  const bytes = await firstBytes(file, 21);
  return String.fromCharCode(...bytes.slice(8, 16)) === "WEBPVP8X" && (bytes[20] & 8) !== 0;
}

async function firstBytes(file, count) {
  return new Uint8Array(await file.slice(0, count).arrayBuffer());
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
