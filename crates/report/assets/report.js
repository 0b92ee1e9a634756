// The page: which tensor is selected, the explanation under the pointer, and when to draw.

let selection = null;

function select(tensor) {
  selection = tensor === selection ? null : tensor;
  drawCharts();
  drawDock();
  markTable(selection);
}

function drawCharts() {
  document.getElementById("tip").hidden = true;
  drawHistogram(selection);
  drawLayers(selection);
  drawTreemap(selection);
  drawSensitivity();
}

function summary(tensor) {
  const bits = tensor.rawBits === null ? "" : ", " + bitsText(tensor.rawBits).replace(/\.?0+$/, "") + " bits";
  const facts = [tensor.dtype + " [" + tensor.shape.join(", ") + "], " + bytesText(tensor.bytes) + bits];
  if (tensor.tied) facts.push("same as " + tensor.same_as);
  else if (tensor.bits_per_element !== null) facts.push(bitsText(tensor.bits_per_element) + " bits per weight, " + bytesText(tensor.stored_bytes));
  if (tensor.bound_bits !== null) facts.push("bound " + bitsText(tensor.bound_bits) + ", joint " + bitsText(tensor.joint_bits));
  if (tensor.coder) facts.push(tensor.coder);
  return tensor.name + "\n" + facts.join("\n");
}

function drawDock() {
  const dock = document.getElementById("dock");
  dock.hidden = selection === null;
  if (!selection) return;
  const close = element("button", { type: "button", class: "close" }, "Close");
  close.addEventListener("click", () => select(null));
  const [name, ...facts] = summary({ ...selection, name: "" }).split("\n");
  dock.replaceChildren(
    element("div", {}, element("h3", {}, selection.name + name), element("p", {}, facts.join(" \u00b7 "))),
    selection.exponents.length ? sparkline(selection.exponents) : element("span"), close);
}

// Shows `text()` beside the pointer while it is over `target`.
function explain(target, text) {
  const tip = document.getElementById("tip");
  target.addEventListener("pointermove", event => {
    tip.textContent = text();
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const x = event.clientX + 14 + width > innerWidth ? event.clientX - width - 14 : event.clientX + 14;
    const y = event.clientY + 14 + height > innerHeight ? event.clientY - height - 14 : event.clientY + 14;
    tip.style.left = Math.max(4, x) + "px";
    tip.style.top = Math.max(4, y) + "px";
  });
  target.addEventListener("pointerleave", () => {
    tip.hidden = true;
  });
}

addEventListener("keydown", event => {
  if (event.key === "Escape" && selection) select(null);
});

let drawnWidth = innerWidth;
addEventListener("resize", () => {
  if (innerWidth === drawnWidth) return; // Only the height: a phone's address bar.
  drawnWidth = innerWidth;
  requestAnimationFrame(drawCharts);
});

startTable();
drawCharts();
