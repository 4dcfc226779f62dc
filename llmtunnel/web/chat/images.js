/** Images that a person attaches: made small enough for a model, as data URLs. */

/** Longest side in pixels. Vision models scale down what is larger. */
const LONGEST = 1536;
/** Maximum size of an image that is sent as it is, in bytes. */
const SMALL = 300_000;
/** Maximum size of a file that is read, in bytes. */
const LARGEST = 50_000_000;
const QUALITY = 0.85;
/** Types that model servers understand. Others become JPEG. */
const KNOWN = ["image/jpeg", "image/png", "image/webp"];

/** A file is not an image that this browser can read. */
export class ImageError extends Error {}

/**
 * Return an image as a data URL, scaled down if it is large. Throws `ImageError`.
 *
 * @param {File} file
 */
export async function readImage(file) {
  if (file.size > LARGEST) {
    throw new ImageError(`${file.name}: larger than ${LARGEST / 1_000_000} MB. Use a smaller image.`);
  }
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new ImageError(`${file.name}: not an image that this browser can read. Use JPEG or PNG.`);
  });
  try {
    const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
    if (scale === 1 && file.size <= SMALL && KNOWN.includes(file.type)) {
      return await toDataUrl(file);
    }
    return draw(bitmap, scale);
  } finally {
    bitmap.close();
  }
}

/**
 * @param {ImageBitmap} bitmap
 * @param {number} scale
 */
function draw(bitmap, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  if (context === null) {
    throw new ImageError("This browser cannot scale the image down. Use a smaller one.");
  }
  context.fillStyle = "#fff"; // JPEG has no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", QUALITY);
}

/**
 * @param {Blob} blob
 * @returns {Promise<string>}
 */
function toDataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(String(reader.result)));
    reader.addEventListener("error", () => reject(new ImageError("The file cannot be read. Choose it again.")));
    reader.readAsDataURL(blob);
  });
}

/**
 * Return the images that were pasted. Office programs add an image of the text that they copy: then the text is meant.
 *
 * @param {DataTransfer | null} transfer
 */
export function pastedImages(transfer) {
  const isText = ["text/plain", "text/html"].every((type) => transfer?.types.includes(type));
  return isText ? [] : imagesIn(transfer);
}

/**
 * Return the images among what was dropped.
 *
 * @param {DataTransfer | null} transfer
 */
export function imagesIn(transfer) {
  return [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}
