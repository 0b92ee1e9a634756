// All tensors: sortable, filterable, drawn a few hundred at a time.

const COLUMNS = [
  { title: "Tensor", of: t => t.name, text: true },
  { title: "Dtype", of: t => t.dtype, text: true },
  { title: "Shape", of: t => t.n_elements, show: t => t.shape.length ? t.shape.join("\u00a0\u00d7\u00a0") : "scalar" },
  { title: "Size", of: t => t.bytes, show: t => bytesText(t.bytes) },
  { title: "Stored", of: t => t.stored_bytes, show: t => t.tied ? "tied" : bytesText(t.stored_bytes), archive: true },
  { title: "Of size", of: t => t.bytes > 0 && t.stored_bytes !== null ? t.stored_bytes / t.bytes : null, show: t => percentText(t.stored_bytes / t.bytes), archive: true },
  { title: "Bits/weight", of: t => t.tied ? null : t.bits_per_element, show: t => bitsText(t.bits_per_element), archive: true, swatch: true },
  { title: "Bound", of: t => t.bound_bits, show: t => bitsText(t.bound_bits), swatch: true },
  { title: "Joint", of: t => t.joint_bits, show: t => bitsText(t.joint_bits) },
  { title: "Over bound", of: t => over(t), show: t => (over(t) * 100).toFixed(2).replace("-", "\u2212") + "\u00a0%", archive: true },
  { title: "Coder", of: t => t.same_as !== null ? "same as " + t.same_as : t.coder, text: true, archive: true },
  { title: "Shard", of: t => t.shard, text: true, shards: true },
].filter(column => (isArchive || !column.archive) && (!column.shards || new Set(tensors.map(t => t.shard)).size > 1));

const STEP = 200;
const table = { column: null, direction: 1, shown: STEP, rows: tensors };

function over(tensor) {
  return tensor.bits_per_element !== null && tensor.bound_bits > 0 ? tensor.bits_per_element / tensor.bound_bits - 1 : null;
}

function startTable() {
  const form = document.querySelector("#tensors .filter");
  const dtypes = [...new Set(tensors.map(tensor => tensor.dtype))].sort();
  form.elements.dtype.append(...dtypes.map(dtype => element("option", { value: dtype }, dtype)));
  form.addEventListener("submit", event => event.preventDefault());
  form.addEventListener("input", () => arrange(form));
  document.querySelector("#tensors table").append(
    element("thead", {}, element("tr", {}, ...COLUMNS.map(column => headCell(column, form)))), element("tbody"));
  document.querySelector("#tensors .more").addEventListener("click", () => {
    table.shown += 5 * STEP;
    drawTable(selection);
  });
  arrange(form);
}

function headCell(column, form) {
  const button = element("button", { type: "button" }, column.title);
  const cell = element("th", { scope: "col", class: column.text && "text", "aria-sort": "none" }, button);
  button.addEventListener("click", () => {
    table.direction = table.column === column ? -table.direction : column.text ? 1 : -1;
    table.column = column;
    for (const other of cell.parentNode.children) other.setAttribute("aria-sort", "none");
    cell.setAttribute("aria-sort", table.direction > 0 ? "ascending" : "descending");
    arrange(form);
  });
  return cell;
}

// Filters and sorts; what has no value comes last either way.
function arrange(form) {
  const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean), dtype = form.elements.dtype.value;
  const fits = tensor => {
    const text = (tensor.name + " " + tensor.coder + " " + tensor.shard).toLowerCase();
    return (!dtype || tensor.dtype === dtype) && words.every(word => text.includes(word));
  };
  table.rows = tensors.filter(fits);
  const { column, direction } = table;
  if (column) {
    const compare = column.text ? (a, b) => a.localeCompare(b, "en", { numeric: true }) : (a, b) => a - b;
    table.rows.sort((a, b) => {
      const [left, right] = [column.of(a), column.of(b)];
      if (left === null || right === null) return (left === null) - (right === null);
      return direction * compare(left, right);
    });
  }
  table.shown = STEP;
  const size = table.rows.reduce((sum, tensor) => sum + tensor.bytes, 0);
  form.querySelector("output").textContent = plural(table.rows.length, "tensor") + ", " + bytesText(size);
  drawTable(selection);
}

function drawTable(selected) {
  const body = document.querySelector("#tensors tbody"), more = document.querySelector("#tensors .more");
  const rows = table.rows.slice(0, table.shown).map(tensor => tableRow(tensor, selected));
  const none = element("tr", {}, element("td", { class: "none", colspan: COLUMNS.length }, "No tensor fits."));
  body.replaceChildren(...(rows.length ? rows : [none]));
  const left = table.rows.length - rows.length;
  more.hidden = !(left > 0);
  more.textContent = "Show " + (left > 5 * STEP ? 5 * STEP + " of " : "") + left + " more";
}

function tableRow(tensor, selected) {
  return element("tr", { class: tensor === selected && "chosen" }, ...COLUMNS.map((column, index) => {
    const value = column.of(tensor);
    const shown = value === null ? "\u2013" : column.show ? column.show(tensor) : String(value);
    if (index > 0) return element("td", { class: column.text && "text" }, swatch(column, value), shown);
    const button = element("button", { type: "button", title: tensor.name }, shown || "(no name)");
    button.addEventListener("click", () => select(tensor));
    return element("td", { class: "text" }, button);
  }));
}

// The colour that the treemap gives it.
function swatch(column, value) {
  if (!column.swatch || value === null || isArchive !== (column.archive === true)) return null;
  const mark = element("span", { class: "swatch", "aria-hidden": "true" });
  mark.style.background = rgb(colorOf(value));
  return mark;
}

function markTable(selected) {
  [...document.querySelectorAll("#tensors tbody tr")].forEach((row, index) => {
    row.classList.toggle("chosen", selected !== null && table.rows[index] === selected);
  });
}
