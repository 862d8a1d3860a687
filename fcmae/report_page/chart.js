"use strict";

// A line chart in one <svg>: axes, a cursor that reads the values off, zoom on x. Colors and dark mode are report.css's.
// data: {x: {label, name?, whole}, y: {label, unit?, min?}, series: [{name, x, y, color, dash, epoch?, pale?, width?}]};
// x ascends, null is a gap. With a width the series is a histogram: x holds the middles of its bins.

const HEIGHT = { least: 190, most: 320, perWidth: 0.5 };
const FONT = 12; // pixels, as in report.css
const DIGIT = 0.62 * FONT; // about the widest that a digit gets in a sans-serif
const SELECTS = 8; // pixels that a drag must cover; less is a click
const DOTS_UP_TO = 60; // points of a series that are marked one by one

function makeChart(figure, data) {
  const svg = figure.querySelector("svg");
  const readout = figure.querySelector(".readout");
  const button = figure.querySelector(".reset");
  const full = wholeDomain(data.series.flatMap(extent), data.x.whole);
  let domain = full;
  let plot = null; // of the last drawing: {left, top, width, height, x(value), y(value)}
  let cursor = null; // x value that is read off, or null
  let dragFrom = null; // pixel where a drag began, or null

  function draw() {
    const width = Math.max(200, svg.clientWidth || 640);
    const height = Math.round(Math.min(HEIGHT.most, Math.max(HEIGHT.least, width * HEIGHT.perWidth)));
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.style.height = `${height}px`;
    svg.replaceChildren();

    const yTicks = niceTicks(...yDomain(data, domain, domain === full), height / 40);
    const yLabels = tickLabels(yTicks);
    const left = Math.ceil(Math.max(...yLabels.map((label) => label.length)) * DIGIT) + 10;
    plot = makePlot(left, 24, width - left - 12, height - 24 - 42, domain, [yTicks.low, yTicks.high]);
    drawAxes(svg, plot, ticksThatFit(domain, plot.width, data.x.whole), yTicks, yLabels, data);

    const clip = node("clipPath", { id: `${figure.id}-clip` }, node("defs", {}, svg));
    // four pixels more on each side: half a dot
    node("rect", { x: plot.left - 4, y: plot.top - 4, width: plot.width + 8, height: plot.height + 8 }, clip);
    const lines = node("g", { "clip-path": `url(#${figure.id}-clip)`, "aria-hidden": "true" }, svg);
    data.series.forEach((series) => drawSeries(lines, series, plot, domain));
    node("g", { class: "overlay", "aria-hidden": "true" }, svg);
    button.hidden = domain === full;
    svg.dataset.domain = domain.join(" ");
    showCursor();
  }

  function showCursor(selectTo = null) {
    const overlay = svg.querySelector(".overlay");
    overlay.replaceChildren();
    if (selectTo !== null) {
      const x = Math.min(dragFrom, selectTo);
      const box = { x, y: plot.top, width: Math.abs(selectTo - dragFrom), height: plot.height };
      node("rect", { class: "selection", ...box }, overlay);
    }
    // without a cursor, what is read off is the end of what is shown
    const at = nearestX(data.series, cursor === null ? domain[1] : cursor, domain);
    if (cursor !== null && at !== null) {
      const x = plot.x(at);
      node("line", { class: "cursor", x1: x, x2: x, y1: plot.top, y2: plot.top + plot.height }, overlay);
      data.series.forEach((series) => {
        const value = series.y[nearest(series.x, at)];
        if (value !== null) node("circle", { class: `mark s${series.color}`, cx: x, cy: plot.y(value), r: 4.5 }, overlay);
      });
    }
    writeReadout(readout, data, at);
  }

  function zoom(low, high) {
    // two whole steps, or a ten-thousandth of the whole, is as near as one gets
    const least = Math.max(data.x.whole ? 2 : 0, (full[1] - full[0]) / 1e4);
    const middle = (low + high) / 2;
    if (high - low < least) [low, high] = [middle - least / 2, middle + least / 2];
    [low, high] = [Math.max(full[0], low), Math.min(full[1], high)];
    domain = low <= full[0] && high >= full[1] ? full : [low, high];
    draw();
  }

  function reset() {
    if (document.activeElement === button) svg.focus(); // the button is about to be hidden
    cursor = null;
    zoom(...full);
  }

  const pixel = (event) => {
    const x = event.clientX - svg.getBoundingClientRect().left;
    return Math.min(plot.left + plot.width, Math.max(plot.left, x));
  };
  svg.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    dragFrom = pixel(event);
    svg.setPointerCapture(event.pointerId);
    cursor = plot.value(dragFrom);
    showCursor();
  });
  svg.addEventListener("pointermove", (event) => {
    cursor = plot.value(pixel(event));
    showCursor(dragFrom === null ? null : pixel(event));
  });
  svg.addEventListener("pointerup", (event) => {
    const [from, to] = [dragFrom, pixel(event)].sort((a, b) => a - b);
    const dragged = dragFrom !== null && to - from > SELECTS;
    dragFrom = null;
    if (dragged) zoom(plot.value(from), plot.value(to));
    else showCursor();
  });
  svg.addEventListener("pointercancel", () => { dragFrom = null; showCursor(); }); // the page scrolls instead
  svg.addEventListener("pointerleave", () => { if (dragFrom === null) { cursor = null; showCursor(); } });
  svg.addEventListener("dblclick", reset);
  button.addEventListener("click", reset);

  svg.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const middle = cursor ?? (domain[0] + domain[1]) / 2;
    const scale = (factor) => zoom(middle - (middle - domain[0]) * factor, middle + (domain[1] - middle) * factor);
    const does = {
      ArrowLeft: () => { cursor = stepAlong(data.series, cursor ?? domain[1], -1, domain); showCursor(); },
      ArrowRight: () => { cursor = stepAlong(data.series, cursor ?? domain[0], 1, domain); showCursor(); },
      "+": () => scale(0.5), "=": () => scale(0.5), "-": () => scale(2), Escape: reset, 0: reset,
    }[event.key];
    if (does) { event.preventDefault(); does(); }
  });

  new ResizeObserver(draw).observe(figure);
  draw();
}

function makePlot(left, top, width, height, xDomain, yDomain) {
  const ofX = (x) => left + (x - xDomain[0]) / (xDomain[1] - xDomain[0]) * width;
  const ofY = (y) => top + height - (y - yDomain[0]) / (yDomain[1] - yDomain[0]) * height;
  const value = (pixel) => xDomain[0] + (pixel - left) / width * (xDomain[1] - xDomain[0]);
  return { left, top, width, height, x: ofX, y: ofY, value };
}

function drawAxes(svg, plot, xTicks, yTicks, yLabels, data) {
  const axes = node("g", { "aria-hidden": "true" }, svg);
  const [right, bottom] = [plot.left + plot.width, plot.top + plot.height];
  yTicks.ticks.forEach((tick, i) => {
    const y = Math.round(plot.y(tick));
    node("line", { class: "grid", x1: plot.left, x2: right, y1: y, y2: y }, axes);
    node("text", { class: "y-tick", x: plot.left - 6, y: y + 4, "text-anchor": "end" }, axes, yLabels[i]);
  });
  node("line", { class: "axis", x1: plot.left, x2: right, y1: bottom, y2: bottom }, axes);
  const xLabels = tickLabels(xTicks);
  xTicks.ticks.forEach((tick, i) => {
    const x = Math.round(plot.x(tick));
    node("line", { class: "axis", x1: x, x2: x, y1: bottom, y2: bottom + 4 }, axes);
    const half = xLabels[i].length * DIGIT / 2; // a label at the edge is moved inside
    const inside = Math.min(Math.max(x, half), right + 12 - half);
    node("text", { class: "x-tick", x: inside, y: bottom + 18, "text-anchor": "middle" }, axes, xLabels[i]);
  });
  node("text", { class: "y-label", x: 0, y: 12 }, axes, data.y.label);
  const middle = plot.left + plot.width / 2;
  node("text", { class: "x-label", x: middle, y: bottom + 36, "text-anchor": "middle" }, axes, data.x.label);
}

function drawSeries(parent, series, plot, domain) {
  if (series.width) return drawBins(parent, series, plot);
  // one point beyond either edge, so that the line runs on to it
  const first = Math.max(0, firstAtLeast(series.x, domain[0]) - 1);
  const end = Math.min(series.x.length, firstAtLeast(series.x, domain[1]) + 2);
  let [line, dots, pen] = ["", "", "M"];
  for (let k = first; k < end; k++) {
    if (series.y[k] === null) { pen = "M"; continue; }
    const point = `${plot.x(series.x[k]).toFixed(1)} ${plot.y(series.y[k]).toFixed(1)}`;
    const alone = pen === "M" && (k + 1 >= end || series.y[k + 1] === null);
    line += `${pen}${point}${alone ? "h0" : ""}`; // a round cap makes a dot of a line of no length
    dots += `M${point}h0`;
    pen = "L";
  }
  node("path", { class: lineClass(series), d: line }, parent);
  if (end - first <= DOTS_UP_TO && !series.pale) node("path", { class: `dots s${series.color}`, d: dots }, parent);
}

function drawBins(parent, series, plot) {
  const base = (plot.top + plot.height).toFixed(1);
  const half = series.width / 2;
  let outline = `M${plot.x(series.x[0] - half).toFixed(1)} ${base}`;
  series.x.forEach((x, k) => { outline += `V${plot.y(series.y[k]).toFixed(1)}H${plot.x(x + half).toFixed(1)}`; });
  node("path", { class: `bins s${series.color}`, d: `${outline}V${base}` }, parent);
  node("path", { class: lineClass(series), d: outline }, parent);
}

function lineClass(series) {
  return `line s${series.color} d${series.dash}${series.pale ? " pale" : ""}`;
}

function writeReadout(readout, data, at) {
  readout.replaceChildren();
  let epoch = null;
  data.series.forEach((series) => {
    const k = at === null ? -1 : nearest(series.x, at);
    epoch ??= series.epoch?.[k] ?? null;
    const item = html("span", "series", readout);
    const swatch = node("svg", { class: "swatch", viewBox: "0 0 22 8", "aria-hidden": "true" }, item);
    node("path", { class: lineClass(series), d: "M1 4H21" }, swatch);
    item.append(`${series.name} `);
    html("b", "value", item, k < 0 || series.y[k] === null ? "–" : valueText(series.y[k]) + (data.y.unit ?? ""));
  });
  if (at === null) return;
  const name = data.x.name ?? data.x.label;
  const place = data.x.whole ? `${name} ${at.toLocaleString("en")}` : `${name} ${valueText(at)}`;
  html("span", "where", readout, epoch === null ? place : `${place}, epoch ${epoch.toFixed(2)}`);
}

// Scales ------------------------------------------------------------------------------------------------------------

// From the first value to the last; from 0 where steps begin near it, as they do but for a run that went on elsewhere.
function wholeDomain(values, isWhole) {
  let [low, high] = [Infinity, -Infinity]; // not Math.min(...values): thousands of arguments
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  if (isWhole && low > 0 && low < high / 8) low = 0;
  return low < high ? [low, high] : [low - 1, low + 1];
}

// What a series covers on x.
function extent({ x, width }) {
  return width ? [x[0] - width / 2, x[x.length - 1] + width / 2] : x;
}

function yDomain(data, domain, isFull) {
  let [low, high] = [Infinity, -Infinity];
  for (const { x, y } of data.series) {
    for (let k = 0; k < x.length; k++) {
      if (y[k] === null || x[k] < domain[0] || x[k] > domain[1]) continue;
      [low, high] = [Math.min(low, y[k]), Math.max(high, y[k])];
    }
  }
  if (low > high) return isFull ? [0, 1] : yDomain(data, [-Infinity, Infinity], true);
  const isFixed = isFull && data.y.min !== undefined && low >= data.y.min;
  if (isFixed) low = data.y.min;
  const margin = (high - low) * 0.05 || Math.abs(high) / 10 || 1;
  return [isFixed ? low : low - margin, high + margin];
}

// As many ticks as have room for their labels, 14 pixels between two.
function ticksThatFit(domain, width, whole) {
  for (let most = width / 40; ; most *= 0.8) {
    const found = niceTicks(...domain, most, whole);
    const widest = Math.max(...tickLabels(found).map((label) => label.length)) * DIGIT + 14;
    if (found.ticks.length <= 2 || (found.step / (domain[1] - domain[0])) * width >= widest) return found;
  }
}

// Ticks 1, 2 or 5 × 10ⁿ apart between low and high, about `most` of them.
function niceTicks(low, high, most, whole = false) {
  const least = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(least));
  let step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= least * (1 - 1e-9));
  if (whole) step = Math.max(1, step);
  const first = Math.ceil(low / step - 1e-9);
  const last = Math.floor(high / step + 1e-9);
  const ticks = Array.from({ length: last - first + 1 }, (_, i) => (first + i) * step);
  return { ticks, step, low, high };
}

function tickLabels({ ticks, step }) {
  const largest = Math.max(...ticks.map(Math.abs), step);
  let [unit, suffix] = [1, ""];
  if (largest >= 1e4) [unit, suffix] = largest >= 1e6 ? [1e6, "M"] : [1e3, "k"];
  if (largest < 1e-2) {
    const exponent = Math.floor(Math.log10(largest) + 1e-9);
    [unit, suffix] = [10 ** exponent, `e${exponent}`];
  }
  const decimals = Math.max(0, -Math.floor(Math.log10(step / unit) + 1e-9));
  return ticks.map((tick) => tick === 0 ? "0" : (tick / unit).toFixed(decimals).replace("-", "−") + suffix);
}

function valueText(value) {
  const size = Math.abs(value);
  if (size !== 0 && size < 1e-3) return value.toExponential(2);
  return value.toLocaleString("en", size < 1000 ? { maximumSignificantDigits: 4 } : { maximumFractionDigits: 0 });
}

// Places on x --------------------------------------------------------------------------------------------------------

function firstAtLeast(x, value) {
  let [low, high] = [0, x.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

function nearest(x, value) {
  const k = firstAtLeast(x, value);
  return k > 0 && (k === x.length || value - x[k - 1] <= x[k] - value) ? k - 1 : k;
}

function nearestX(series, value, domain) {
  const inside = series.map(({ x }) => x[nearest(x, value)]).filter((x) => x >= domain[0] && x <= domain[1]);
  if (!inside.length) return null;
  return inside.reduce((best, x) => Math.abs(x - value) < Math.abs(best - value) ? x : best);
}

function stepAlong(series, value, by, domain) {
  const { x } = series[0];
  const from = nearest(x, value);
  const next = x[Math.min(x.length - 1, Math.max(0, from + by))];
  return next >= domain[0] && next <= domain[1] ? next : x[from];
}

// Elements -----------------------------------------------------------------------------------------------------------

function node(name, attributes, parent, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return parent.appendChild(made);
}

function html(name, className, parent, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return parent.appendChild(made);
}
