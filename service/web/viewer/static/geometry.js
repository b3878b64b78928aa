/**
 * Polygons as `/score` answers them: rings `[x0, y0, x1, y1, ...]` in fractions of the picture. The
 * union of the rings, filled, is the mask. A ring takes in its holes over bridges of no width, walked
 * there and back.
 */

/** The mask as an SVG path, to be filled by the non-zero rule. */
export function fillPath(polygon) {
  return polygon.map((ring) => `M${pointsOf(ring).join("L")}Z`).join("");
}

/** The mask's edges as an SVG path: what is filled ends there, which it does not at a bridge. */
export function outlinePath(polygon) {
  return polygon.map(outlineOfRing).join("");
}

/** The mask's share of the picture, 0 to 1. */
export function area(polygon) {
  return polygon.reduce((sum, ring) => sum + Math.abs(signedArea(ring)), 0);
}

/** The highest point of a ring. @returns {{x: number, y: number}} */
export function topmost(ring) {
  let at = 0;
  for (let i = 2; i < ring.length; i += 2) if (ring[i + 1] < ring[at + 1]) at = i;
  return { x: ring[at], y: ring[at + 1] };
}

function outlineOfRing(ring) {
  const points = pointsOf(ring);
  const edges = points.map((point, i) => [point, points[(i + 1) % points.length]]);
  const walked = new Set(edges.map(([from, to]) => `${from} ${to}`));
  let path = "";
  let pen = null;
  for (const [from, to] of edges) {
    if (walked.has(`${to} ${from}`)) continue; // a bridge
    path += pen === from ? `L${to}` : `M${from}L${to}`;
    pen = to;
  }
  return path;
}

function pointsOf(ring) {
  return Array.from({ length: ring.length / 2 }, (_, i) => `${ring[2 * i]},${ring[2 * i + 1]}`);
}

function signedArea(ring) {
  let doubled = 0;
  for (let i = 0; i < ring.length; i += 2) {
    const next = (i + 2) % ring.length;
    doubled += ring[i] * ring[next + 1] - ring[next] * ring[i + 1];
  }
  return doubled / 2;
}
