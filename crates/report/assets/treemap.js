// Sizes: a rectangle for each tensor within one for its layer or module.

// [[group, [tensor, ...]], ...], largest first.
const treeGroups = (() => {
  const found = new Map();
  for (const tensor of tensors) {
    if (!(tensor.bytes > 0)) continue;
    if (!found.has(tensor.place.group)) found.set(tensor.place.group, []);
    found.get(tensor.place.group).push(tensor);
  }
  return [...found].map(([name, members]) => ({
    ...groupNames(name, members[0].place), members: members.sort((a, b) => b.bytes - a.bytes),
    bytes: members.reduce((sum, tensor) => sum + tensor.bytes, 0),
  })).sort((a, b) => b.bytes - a.bytes);
})();

// `layer 3` in the largest stack of layers; else the whole name. `short` is for small boxes.
function groupNames(name, { stack, layer }) {
  if (stack === null) return { name, short: name.slice(name.lastIndexOf(".") + 1) };
  return { name: stacks.length && stack === stacks[0][0] ? "layer " + layer : name, short: String(layer) };
}

// Squarified treemap (Bruls, Huizing, van Wijk 2000): `items`, largest first, laid out in `box` as [item, box].
function squarify(items, box) {
  const placed = [];
  let left = { ...box }, rest = items.reduce((sum, item) => sum + item.bytes, 0), from = 0;
  while (from < items.length && left.w > 0 && left.h > 0) {
    const side = Math.min(left.w, left.h), scale = left.w * left.h / rest;
    let to = from, sum = 0, worst = Infinity;
    while (to < items.length) {
      const more = sum + items[to].bytes;
      const length = more * scale / side; // Thickness of the row; the longest and the shortest of its boxes decide.
      const shapeOf = item => Math.max(item.bytes * scale / length / length, length * length / (item.bytes * scale));
      const next = Math.max(shapeOf(items[from]), shapeOf(items[to]));
      if (next > worst) break;
      [worst, sum, to] = [next, more, to + 1];
    }
    const thickness = sum * scale / side;
    let at = 0;
    for (const item of items.slice(from, to)) {
      const length = item.bytes / sum * side;
      placed.push([item, left.w >= left.h
        ? { x: left.x, y: left.y + at, w: thickness, h: length } : { x: left.x + at, y: left.y, w: length, h: thickness }]);
      at += length;
    }
    left = left.w >= left.h
      ? { x: left.x + thickness, y: left.y, w: left.w - thickness, h: left.h }
      : { x: left.x, y: left.y + thickness, w: left.w, h: left.h - thickness };
    rest -= sum;
    from = to;
  }
  return placed;
}

function drawTreemap(selected) {
  const section = document.getElementById("treemap");
  const [lead, legend, chart] = [".lead", ".legend", ".chart"].map(part => section.querySelector(part));
  lead.textContent = "Areas are original sizes; each layer or module is a group. Select a tensor to see its exponents.";
  legend.replaceChildren(...treemapLegend());
  if (!treeGroups.length) {
    chart.replaceChildren();
    lead.textContent = "No tensor holds anything.";
    return;
  }
  const width = chart.clientWidth, height = Math.round(Math.min(640, Math.max(360, width * 0.55)));
  const svg = shape("svg", { viewBox: "0 0 " + width + " " + height, height, role: "img",
    "aria-label": "Treemap of " + plural(treeGroups.length, "group") + "; the largest: "
      + treeGroups.slice(0, 3).map(group => group.name + " " + bytesText(group.bytes)).join(", ") + ". The table below lists all tensors." });
  for (const [group, box] of squarify(treeGroups, { x: 0, y: 0, w: width, h: height })) {
    const head = box.w > 44 && box.h > 34 ? 15 : 0, edge = box.w > 12 && box.h > 12 ? 1.5 : 0;
    const inner = { x: box.x + edge, y: box.y + edge + head, w: box.w - 2 * edge, h: box.h - 2 * edge - head };
    for (const [tensor, cell] of squarify(group.members, inner)) svg.append(...treemapCell(tensor, cell, selected));
    if (head) svg.append(shape("text", { class: "group", x: box.x + 3, y: box.y + 12 }, fitted(group.name, box.w - 6, group.short, 7.4)));
  }
  chart.replaceChildren(svg);
}

function treemapCell(tensor, { x, y, w, h }, selected) {
  if (w * h < 1) return [];
  const bits = bitsOf(tensor), color = bits === null ? null : colorOf(bits);
  const cell = shape("rect", { class: "cell" + (color ? "" : " plain") + (tensor === selected ? " chosen" : ""),
    x, y, width: w, height: h, fill: color && rgb(color) });
  explain(cell, () => summary(tensor));
  cell.addEventListener("click", () => select(tensor));
  const made = [cell];
  if (w > 46 && h > 16) {
    const leaf = tensor.place.leaf.replace(/\.?weight$/, ""), number = bits === null ? (tensor.tied ? "tied" : "") : bits.toFixed(2);
    const lines = [fitted(leaf, w - 8, leaf.slice(leaf.lastIndexOf(".") + 1)), fitted(number, w - 8)].filter(Boolean);
    const tone = color ? (isLight(color) ? "dark" : "light") : "plain";
    made.push(...lines.slice(0, h > 32 ? 2 : 1).map((line, i) => shape("text", { class: "name " + tone, x: x + 4, y: y + 13 + 14 * i }, line)));
  }
  return made;
}

// As much of a text as fits at about so many px a letter, or of a shorter one.
function fitted(text, width, shorter, letter = 6.4) {
  const room = Math.floor(width / letter);
  if (text.length > room && shorter && shorter !== text) return fitted(shorter, width, null, letter);
  return text.length <= room ? text : room > 4 ? text.slice(0, room - 1) + "\u2026" : "";
}

function treemapLegend() {
  if (!tensors.some(tensor => bitsOf(tensor) !== null)) return [];
  const bar = shape("svg", { viewBox: "0 0 100 8", preserveAspectRatio: "none", "shape-rendering": "crispEdges", "aria-hidden": "true" });
  for (let i = 0; i < 50; i += 1) bar.append(shape("rect", { x: 2 * i, width: 2.2, height: 8, fill: rgb(rampColor(i / 49)) }));
  return [element("span", {}, colorRange[0].toFixed(2)), bar, element("span", {}, colorRange[1].toFixed(2)), element("span", {}, measureName)];
}
