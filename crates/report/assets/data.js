// What all parts of the page share: the inspection, numbers as people read them, elements, colours.

const page = JSON.parse(document.getElementById("data").textContent);
const isArchive = page.kind === "archive";
const tensors = page.tensors.map((tensor, index) => ({
  ...tensor,
  index,
  tied: tensor.same_as !== null,
  place: placeOf(tensor.name),
  rawBits: tensor.n_elements > 0 ? tensor.bytes * 8 / tensor.n_elements : null,
}));

// The colour of a tensor: bits that it takes; without an archive, bits that it could take; else its width.
const measure = ["bits_per_element", "bound_bits", "rawBits"].find(
  key => tensors.some(tensor => !tensor.tied && tensor[key] !== null)) || "rawBits";
const measureName = {
  bits_per_element: "bits per weight in the archive",
  bound_bits: "bits per weight at the exponent bound",
  rawBits: "bits per weight",
}[measure];
const bitsOf = tensor => tensor.tied ? null : tensor[measure];

// Where a name stands: { stack, layer, group, leaf }. `model.layers.3.mlp.up.weight` is in stack `model.layers`.
function placeOf(name) {
  const found = /^((?:.*?\.)??(?:layers?|blocks?|h|blk|resblocks))\.(\d+)\.(.+)$/.exec(name);
  if (found) {
    const [, stack, layer, leaf] = found;
    return { stack, layer: Number(layer), group: stack + "." + layer, leaf };
  }
  const cut = name.lastIndexOf(".");
  return { stack: null, layer: null, group: cut > 0 ? name.slice(0, cut) : name, leaf: cut > 0 ? name.slice(cut + 1) : name };
}

function scaled(n, units) {
  let unit = 0;
  while (n >= 999.5 && unit < units.length - 1) {
    n /= 1000;
    unit += 1;
  }
  const digits = unit === 0 ? 0 : n < 9.995 ? 2 : n < 99.95 ? 1 : 0;
  return n.toFixed(digits) + units[unit];
}

const bytesText = n => scaled(n, ["\u00a0B", "\u00a0kB", "\u00a0MB", "\u00a0GB", "\u00a0TB"]);
const countText = n => scaled(n, ["", "\u00a0k", "\u00a0M", "\u00a0G", "\u00a0T"]);
const bitsText = bits => bits === null ? "\u2013" : bits.toFixed(3);
const percentText = share => (share * 100).toFixed(share < 0.001 && share > 0 ? 3 : share < 0.1 ? 2 : 1) + "\u00a0%";
const plural = (n, noun) => n + " " + noun + (n === 1 ? "" : "s");

// Elements. Strings become text nodes, so no name is ever read as markup.
function element(tag, attributes, ...children) {
  return fillElement(document.createElement(tag), attributes, children);
}

function shape(tag, attributes, ...children) {
  return fillElement(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fillElement(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.filter(child => child !== null));
  return made;
}

// Sequential colours, readable on both papers: few bits are blue, many are orange.
const STOPS = [[52, 62, 138], [44, 110, 163], [42, 154, 146], [118, 178, 98], [222, 182, 66], [222, 122, 58]];

function rampColor(at) {
  const position = Math.min(1, Math.max(0, at)) * (STOPS.length - 1);
  const low = Math.min(STOPS.length - 2, Math.floor(position));
  return STOPS[low].map((from, i) => Math.round(from + (STOPS[low + 1][i] - from) * (position - low)));
}

const rgb = color => "rgb(" + color.join(" ") + ")";
const isLight = ([r, g, b]) => 0.2126 * (r / 255) ** 2.2 + 0.7152 * (g / 255) ** 2.2 + 0.0722 * (b / 255) ** 2.2 > 0.22;

// The value below which `share` of the weight lies; `items` are [value, weight].
function quantile(items, share) {
  const sorted = [...items].sort((a, b) => a[0] - b[0]);
  const total = sorted.reduce((sum, item) => sum + item[1], 0);
  let seen = 0;
  for (const [value, weight] of sorted) {
    seen += weight;
    if (seen >= share * total) return value;
  }
  return sorted.length ? sorted[sorted.length - 1][0] : 0;
}

const colorRange = (() => {
  const items = tensors.filter(tensor => bitsOf(tensor) !== null).map(tensor => [bitsOf(tensor), tensor.bytes]);
  const low = quantile(items, 0.01), high = quantile(items, 0.99);
  return high - low < 0.05 ? [low - 0.5, high + 0.5] : [low, high];
})();
const colorOf = bits => rampColor((bits - colorRange[0]) / (colorRange[1] - colorRange[0]));

// Steps of 1, 2 or 5 times a power of ten: at most `count` of them from `low` to `high`.
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 5, 10].map(k => k * power).find(k => k >= rough) || power;
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) found.push(i * step);
  return { values: found, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}
