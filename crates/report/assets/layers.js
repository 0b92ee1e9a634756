// Bits per weight of each layer against the bounds: lines are averages, dots are tensors.

// [[stack, [layer, ...]], ...], largest stack first. A layer: { layer, stored, bound, joint, dots }.
const stacks = (() => {
  const found = new Map();
  for (const tensor of tensors) {
    const { stack, layer } = tensor.place;
    if (stack === null || tensor.tied || !(tensor.n_elements > 0)) continue;
    if (!found.has(stack)) found.set(stack, new Map());
    const layers = found.get(stack);
    if (!layers.has(layer)) layers.set(layer, { layer, dots: [] });
    layers.get(layer).dots.push(tensor);
  }
  const weight = layers => [...layers.values()].reduce((sum, { dots }) => sum + dots.reduce((n, dot) => n + dot.bytes, 0), 0);
  return [...found].sort((a, b) => weight(b[1]) - weight(a[1])).map(([stack, layers]) => [stack, averaged(layers)]);
})();

function averaged(layers) {
  const mean = (dots, key) => {
    const counted = dots.filter(dot => dot[key] !== null);
    const n = counted.reduce((sum, dot) => sum + dot.n_elements, 0);
    return n > 0 ? counted.reduce((sum, dot) => sum + dot[key] * dot.n_elements, 0) / n : null;
  };
  return [...layers.values()].sort((a, b) => a.layer - b.layer).map(({ layer, dots }) => ({
    layer, dots, stored: mean(dots, "bits_per_element"), bound: mean(dots, "bound_bits"), joint: mean(dots, "joint_bits"),
  }));
}

const SERIES = [["stored", "in the archive"], ["bound", "exponent bound"], ["joint", "joint bound"]];
let shownStack = 0;

function drawLayers(selected) {
  const section = document.getElementById("layers");
  const [tabs, chart, note] = [".tabs", ".chart", ".note"].map(part => section.querySelector(part));
  const layers = stacks.length ? stacks[shownStack][1] : [];
  const series = SERIES.filter(([key]) => layers.some(layer => layer[key] !== null));
  if (!series.length) {
    chart.replaceChildren();
    note.textContent = stacks.length ? "Nothing was measured: neither an archive nor bounds." : "No tensor's name says which layer it belongs to.";
    return;
  }
  tabs.replaceChildren(...(stacks.length > 1 ? stacks.map(([stack], index) => {
    const button = element("button", { type: "button", "aria-pressed": String(index === shownStack) }, stack);
    button.addEventListener("click", () => {
      shownStack = index;
      drawLayers(selected);
    });
    return button;
  }) : []));
  const [low, high] = layerRange(layers, series);
  const hidden = layers.flatMap(({ dots }) => dots).filter(dot => bitsOf(dot) < low || bitsOf(dot) > high).length;
  chart.replaceChildren(layerChart(chart.clientWidth, layers, series, low, high, selected), layerKeys(series));
  note.textContent = hidden ? plural(hidden, "small tensor") + (hidden === 1 ? " lies" : " lie") + " outside the chart." : "";
}

// All averages, and the tensors that hold 98 % of the bytes.
function layerRange(layers, series) {
  const averages = layers.flatMap(layer => series.map(([key]) => layer[key])).filter(bits => bits !== null);
  const dots = layers.flatMap(({ dots }) => dots).filter(dot => bitsOf(dot) !== null).map(dot => [bitsOf(dot), dot.bytes]);
  const low = Math.min(...averages, ...(dots.length ? [quantile(dots, 0.01)] : []));
  const high = Math.max(...averages, ...(dots.length ? [quantile(dots, 0.99)] : []));
  const margin = Math.max((high - low) * 0.08, 0.05);
  return [Math.max(0, low - margin), high + margin];
}

function layerChart(width, layers, series, low, high, selected) {
  const height = 260, left = 40, bottom = 24, top = 8, step = (width - left) / layers.length;
  const x = index => left + (index + 0.5) * step, y = bits => top + (high - bits) / (high - low) * (height - bottom - top);
  const svg = shape("svg", { viewBox: "0 0 " + width + " " + height, height, role: "img",
    "aria-label": "Bits per weight of " + plural(layers.length, "layer") + ": " + series.map(([key, name]) => name + " "
      + bitsText(Math.min(...layers.map(layer => layer[key]))) + " to " + bitsText(Math.max(...layers.map(layer => layer[key])))).join(", ") });
  const lines = ticks(low, high, 5);
  for (const value of lines.values) {
    svg.append(shape("line", { class: "grid", x1: left, x2: width, y1: y(value), y2: y(value) }),
      shape("text", { x: left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(lines.digits)));
  }
  const every = Math.ceil(28 / step);
  layers.forEach((layer, index) => {
    const hit = shape("rect", { class: "hit", x: x(index) - step / 2, width: step, y: top, height: height - bottom - top });
    explain(hit, () => "layer " + layer.layer + series.map(([key, name]) => "\n" + name + " " + bitsText(layer[key])).join(""));
    svg.append(hit);
    if (index % every === 0) svg.append(shape("text", { x: x(index), y: height - 6, "text-anchor": "middle" }, String(layer.layer)));
  });
  layers.forEach((layer, index) => svg.append(...layerDots(layer, x(index), step, y, [low, high], selected)));
  for (const [key] of series) {
    const known = layers.map((layer, index) => [x(index), layer[key]]).filter(([, bits]) => bits !== null);
    svg.append(shape("path", { class: "series " + key, d: known.map(([at, bits], i) => (i ? "L" : "M") + at + " " + y(bits)).join("") }));
    if (key === "stored" || layers.length === 1) {
      for (const [at, bits] of known) svg.append(shape("circle", { class: "knot", cx: at, cy: y(bits), r: Math.min(3, step / 4) }));
    }
  }
  return svg;
}

function layerDots({ dots }, x, step, y, [low, high], selected) {
  const most = Math.max(...dots.map(dot => dot.bytes), 1);
  return dots.filter(dot => bitsOf(dot) !== null && bitsOf(dot) >= low && bitsOf(dot) <= high).map(dot => {
    const r = Math.max(1.5, Math.min(6, step / 2.5) * Math.sqrt(dot.bytes / most));
    const circle = shape("circle", { class: dot === selected ? "dot chosen" : "dot", cx: x, cy: y(bitsOf(dot)), r });
    explain(circle, () => summary(dot));
    circle.addEventListener("click", () => select(dot));
    return circle;
  });
}

function layerKeys(series) {
  return element("div", { class: "keys" }, ...series.map(([key, name]) => element("span", {},
    shape("svg", { viewBox: "0 0 28 12", "aria-hidden": "true" }, shape("path", { class: "series " + key, d: "M0 6h28" })), name)));
}
