// Exponent histogram: pooled over a dtype, or of the selected tensor.

const BIAS = { BF16: 127, F16: 15, F32: 127, C64: 127, F64: 1023 };
const TOP = { BF16: 255, F16: 31, F32: 255, C64: 255, F64: 2047 };

// { dtype: [[exponent, count], ...] }, most counted first; ties count once.
const pooled = (() => {
  const sums = new Map();
  for (const tensor of tensors) {
    if (!tensor.exponents.length) continue;
    if (!sums.has(tensor.dtype)) sums.set(tensor.dtype, new Map());
    const counts = sums.get(tensor.dtype);
    for (const [exponent, n] of tensor.exponents) counts.set(exponent, (counts.get(exponent) || 0) + n);
  }
  const lists = [...sums].map(([dtype, counts]) => [dtype, [...counts].sort((a, b) => a[0] - b[0])]);
  return new Map(lists.sort((a, b) => total(b[1]) - total(a[1])));
})();

function total(counts) {
  return counts.reduce((sum, [, n]) => sum + n, 0);
}

function entropy(counts) {
  const all = total(counts);
  return counts.reduce((sum, [, n]) => sum + n / all * Math.log2(all / n), 0);
}

function exponentText(exponent, dtype) {
  if (exponent === 0) return "0";
  if (exponent === TOP[dtype]) return "\u221e";
  const digits = "\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079";
  const power = exponent - BIAS[dtype];
  return "2" + (power < 0 ? "\u207b" : "") + [...String(Math.abs(power))].map(digit => digits[digit]).join("");
}

// The exponents worth drawing: all but the outermost 1 in 100,000 on each side.
function shownRange(counts) {
  const low = quantile(counts, 1e-5), high = quantile(counts, 1 - 1e-5);
  return [Math.min(low, high - 3), Math.max(high, low + 3)];
}

let shownDtype = pooled.keys().next().value;

function drawHistogram(selected) {
  const section = document.getElementById("exponents");
  const [tabs, chart, note] = [".tabs", ".chart", ".note"].map(part => section.querySelector(part));
  const chosen = selected && selected.exponents.length ? selected : null;
  if (chosen) shownDtype = chosen.dtype;
  tabs.replaceChildren(...(pooled.size ? histogramTabs(chosen) : []));
  if (!pooled.size) {
    chart.replaceChildren();
    note.textContent = tensors.length ? "No exponents were counted: there are no floats, or bounds were left out." : "There are no tensors.";
    return;
  }
  const all = pooled.get(shownDtype), counts = chosen ? chosen.exponents : all;
  const [low, high] = shownRange(chosen ? [...counts, ...all.map(([e, n]) => [e, n * total(counts) / total(all)])] : counts);
  chart.replaceChildren(histogramChart(chart.clientWidth, counts, chosen ? all : null, low, high));
  const outside = total(counts.filter(([exponent]) => exponent < low || exponent > high));
  note.textContent = "Entropy " + entropy(counts).toFixed(3) + " bits, over " + countText(total(counts)) + " weights"
    + (outside ? "; " + outside.toLocaleString("en") + " with exponents outside the chart." : ".")
    + (chosen ? " Outline: all " + shownDtype + "." : "");
}

function histogramTabs(chosen) {
  const tab = (label, pressed, act) => {
    const button = element("button", { type: "button", "aria-pressed": String(pressed), title: label }, label);
    button.addEventListener("click", act);
    return button;
  };
  const dtypes = [...pooled.keys()].map(dtype => tab("all " + dtype, !chosen && dtype === shownDtype, () => {
    shownDtype = dtype;
    select(null);
  }));
  return chosen ? [...dtypes, tab(chosen.name, true, () => select(null))] : dtypes;
}

function histogramChart(width, counts, outline, low, high) {
  const height = 260, left = 40, bottom = 24, top = 8;
  const shares = new Map(counts.map(([exponent, n]) => [exponent, n / total(counts)]));
  const others = outline && new Map(outline.map(([exponent, n]) => [exponent, n / total(outline)]));
  const most = Math.max(...[...shares, ...(others || [])].filter(([e]) => e >= low && e <= high).map(([, share]) => share), 1e-9);
  const step = (width - left) / (high - low + 1), y = share => height - bottom - share / most * (height - bottom - top);
  const svg = shape("svg", { viewBox: "0 0 " + width + " " + height, height, role: "img",
    "aria-label": "Histogram of exponents from " + exponentText(low, shownDtype) + " to " + exponentText(high, shownDtype)
      + ", entropy " + entropy(counts).toFixed(3) + " bits" });
  const lines = ticks(0, most * 100, 4);
  for (const value of lines.values) {
    svg.append(shape("line", { class: "grid", x1: left, x2: width, y1: y(value / 100), y2: y(value / 100) }),
      shape("text", { x: left - 6, y: y(value / 100) + 4, "text-anchor": "end" }, value.toFixed(lines.digits) + "%"));
  }
  const every = Math.ceil(36 / step);
  let outlinePath = "";
  for (let exponent = low; exponent <= high; exponent += 1) {
    const x = left + (exponent - low) * step, share = shares.get(exponent) || 0, gap = Math.min(2, step / 5);
    svg.append(shape("rect", { class: outline ? "column chosen" : "column", x: x + gap / 2, width: Math.max(step - gap, 0.5),
      y: y(share), height: height - bottom - y(share), rx: Math.min(2, step / 6) }));
    if (others) outlinePath += (exponent === low ? "M" + x + " " : "V") + y(others.get(exponent) || 0) + "h" + step;
    if ((high - exponent) % every === 0) {
      svg.append(shape("text", { x: x + step / 2, y: height - 6, "text-anchor": "middle" }, exponentText(exponent, shownDtype)));
    }
    const hit = shape("rect", { class: "hit", x, width: step, y: top, height: height - bottom - top });
    const meaning = exponent === 0 ? "zero and subnormal" : exponent === TOP[shownDtype] ? "infinity and NaN" : exponentText(exponent, shownDtype);
    explain(hit, () => meaning + " (field " + exponent + ")\n" + percentText(share)
      + (others ? ", all " + shownDtype + " " + percentText(others.get(exponent) || 0) : ""));
    svg.append(hit);
  }
  if (others) svg.append(shape("path", { class: "outline", d: outlinePath }));
  return svg;
}

// A small picture of one tensor's exponents, for the dock.
function sparkline(counts) {
  const [low, high] = shownRange(counts), most = Math.max(...counts.map(([, n]) => n));
  const svg = shape("svg", { viewBox: "0 0 " + (high - low + 1) + " 1", preserveAspectRatio: "none", "aria-hidden": "true" });
  for (const [exponent, n] of counts) {
    if (exponent < low || exponent > high) continue;
    svg.append(shape("rect", { class: "column", x: exponent - low, width: 0.9, y: 1 - n / most, height: n / most }));
  }
  return svg;
}
