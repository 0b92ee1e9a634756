// What each matrix can bear: rows are the matrices of a layer, columns are layers, a cell's colour is the divergence that
// it causes where it alone is coarse, and its stripes are attention heads.

const precision = JSON.parse(document.getElementById("sensitivity-data").textContent);

// { leaf: Map(layer -> matrix) } in the order of the first of each leaf; matrices outside layers by themselves.
const heat = (() => {
  const rows = new Map(), others = [];
  for (const matrix of precision) {
    const { layer, leaf } = placeOf(matrix.name);
    const row = leaf.replace(/\.weight$/, "").replace(/\.\d+\./g, ".*.");
    if (layer === null) {
      others.push(matrix);
      continue;
    }
    if (!rows.has(row)) rows.set(row, new Map());
    const cells = rows.get(row);
    if (!cells.has(layer)) cells.set(layer, []);
    cells.get(layer).push(matrix);
  }
  return { rows: [...rows], others };
})();

// Divergence of a weight: what precision is dealt out by.
const perWeight = matrices => matrices.reduce((sum, matrix) => sum + matrix.divergence, 0)
  / matrices.reduce((sum, matrix) => sum + matrix.n_weights, 0);

const heatRange = (() => {
  const logs = [...heat.rows.flatMap(([, cells]) => [...cells.values()]), ...heat.others.map(matrix => [matrix])]
    .map(matrices => Math.log10(perWeight(matrices)));
  const [low, high] = [Math.min(...logs), Math.max(...logs)];
  return high - low < 0.5 ? [low - 0.5, high + 0.5] : [low, high];
})();
const heatColor = divergence => rgb(rampColor((Math.log10(divergence) - heatRange[0]) / (heatRange[1] - heatRange[0])));

function heatText(matrices) {
  const bits = matrices.reduce((sum, matrix) => sum + matrix.bits * matrix.n_weights, 0)
    / matrices.reduce((sum, matrix) => sum + matrix.n_weights, 0);
  const name = matrices.length === 1 ? matrices[0].name : matrices.length + " like " + matrices[0].name;
  const heads = matrices[0].heads.length && matrices.length === 1
    ? "\nheads " + matrices[0].heads.map(divergence => divergence.toExponential(1)).join(", ") : "";
  return name + "\ndivergence " + matrices.reduce((sum, matrix) => sum + matrix.divergence, 0).toExponential(2)
    + " nats at " + matrices[0].probe_bits.toFixed(2) + " bits\ngot " + bitsText(bits) + " bits" + heads;
}

function heatCell(matrices, x, y, width, height) {
  const cell = shape("g", {}, shape("rect", { x, y, width, height, fill: heatColor(perWeight(matrices)) }));
  const heads = matrices.length === 1 ? matrices[0].heads : [];
  heads.forEach((divergence, index) => cell.append(shape("rect", {
    x: x + index * width / heads.length, y: y + height * 0.6, width: width / heads.length, height: height * 0.4,
    fill: heatColor(divergence * heads.length / matrices[0].n_weights) })));
  explain(cell, () => heatText(matrices));
  return cell;
}

function drawSensitivity() {
  const section = document.getElementById("sensitivity");
  section.hidden = precision.length === 0;
  if (section.hidden) return;
  const chart = section.querySelector(".chart");
  const layers = [...new Set(heat.rows.flatMap(([, cells]) => [...cells.keys()]))].sort((a, b) => a - b);
  const left = 150, height = 26, width = chart.clientWidth, step = (width - left) / Math.max(1, layers.length);
  const rows = heat.rows.length + heat.others.length;
  const svg = shape("svg", { viewBox: "0 0 " + width + " " + (rows * height + 20), height: rows * height + 20, role: "img",
    "aria-label": "Sensitivity of " + plural(precision.length, "matrix").replace("matrixs", "matrices") });
  const label = (text, y) => svg.append(shape("text", { x: left - 8, y: y + height / 2 + 4, "text-anchor": "end" }, text));
  heat.rows.forEach(([row, cells], index) => {
    label(row, index * height);
    layers.forEach((layer, column) => {
      if (cells.has(layer)) svg.append(heatCell(cells.get(layer), left + column * step, index * height, step - 1, height - 1));
    });
  });
  const every = Math.ceil(28 / step), bottom = heat.rows.length * height;
  layers.forEach((layer, column) => {
    if (column % every) return;
    svg.append(shape("text", { x: left + (column + 0.5) * step, y: bottom + 14, "text-anchor": "middle" }, String(layer)));
  });
  heat.others.forEach((matrix, index) => {
    const y = bottom + 20 + index * height;
    label(matrix.name.replace(/\.weight$/, "").replace(/^.*\./, ""), y);
    svg.append(heatCell([matrix], left, y, width - left - 1, height - 1));
  });
  chart.replaceChildren(svg);
}
