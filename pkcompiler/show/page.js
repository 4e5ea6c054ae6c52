"use strict";
(() => {
  const root = document.documentElement;
  const data = JSON.parse(document.getElementById("data").textContent);
  const all = (selector, from = document) => [...from.querySelectorAll(selector)];
  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const plots = {};
  let metric = "l2";
  let selected = -1;

  // Light and dark: the colours are the style sheet's, the figures take them from there.
  const system = matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  function repaint() {
    const button = document.getElementById("theme");
    button.setAttribute("aria-pressed", String(dark()));
    button.querySelector(".word").textContent = dark() ? "Light" : "Dark";
    for (const plot of Object.values(plots)) {
      for (const model of plot.references()) {
        for (const tag of model.tags ?? []) {
          const [key, name] = String(tag).split("=");
          model[key] = colour(name);
        }
      }
    }
    recolour();
  }
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    repaint();
  });
  system.addEventListener("change", repaint);

  // The network: one hue by share, the panel beside it by tap.
  const boxes = () => plots.network?.renderers.find((r) => r.name === "boxes").data_source;
  const channels = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  function recolour() {
    const source = boxes();
    if (!source) return;
    const values = Array.from(source.data[metric]);
    const top = metric === "density" ? 1 : Math.max(0, ...values.filter((v) => v !== null)) || 1;
    const [low, high] = [channels(colour("low")), channels(colour("high"))];
    const part = (v) => (v === null || Number.isNaN(v) ? null : Math.min(1, v / top));
    const mix = (p) => "#" + low.map((a, i) => Math.round(a + (high[i] - a) * p).toString(16).padStart(2, "0")).join("");
    const parts = values.map(part);
    source.data = {
      ...source.data,
      fill: parts.map((p) => (p === null ? colour("blank") : mix(p))),
      ink: parts.map((p) => colour(p !== null && p > 0.5 ? "onhigh" : "onlow")),
      line: parts.map((_, i) => colour(i === selected ? "second" : "edge")),
      width: parts.map((_, i) => (i === selected ? 3 : 1)),
    };
    const said = 100 * top;
    document.getElementById("top").textContent = (said >= 0.01 ? Number(said.toPrecision(3)) : said.toExponential(1)) + "%";
  }
  function select(node) {
    selected = node;
    for (const panel of all(".layer")) panel.hidden = Number(panel.dataset.node) !== node;
    recolour();
  }
  for (const button of all("[data-metric]")) {
    button.addEventListener("click", () => {
      metric = button.dataset.metric;
      for (const other of all("[data-metric]")) other.setAttribute("aria-pressed", String(other === button));
      recolour();
    });
  }

  // Zoom keeps the aspect, and the texts grow with the boxes.
  function view(plot, x, y, scale) {
    const [w, h] = [plot.inner_width / scale / 2, plot.inner_height / scale / 2];
    plot.x_range.setv({ start: x - w, end: x + w });
    plot.y_range.setv({ start: y + h, end: y - h });
    resize(plot);
  }
  const middle = (range) => (range.start + range.end) / 2;
  const scaleOf = (plot) => plot.inner_height / Math.abs(plot.y_range.end - plot.y_range.start);
  function fit(plot, [width, height]) {
    view(plot, width / 2, height / 2, Math.min(plot.inner_width / width, plot.inner_height / height, 1.25));
  }
  function resize(plot) {
    const scale = scaleOf(plot);
    for (const [name, size, offset] of [["title", 12, -7], ["detail", 10, 10]]) {
      const text = plot.renderers.find((r) => r.name === name);
      text.glyph.text_font_size = (size * scale).toFixed(2) + "px";
      text.glyph.y_offset = offset * scale;
      text.visible = size * scale > 3;
    }
  }
  function drawn(plot) {
    const whole = [plot.x_range.end, plot.y_range.start];
    let size = "";
    const refit = () => {
      const now = plot.inner_width + " " + plot.inner_height;
      if (now === size || !(plot.inner_width > 50)) return;
      size = now;
      fit(plot, whole);
    };
    plot.y_range.change.connect(() => resize(plot));
    plot.properties.inner_width.change.connect(refit);
    plot.properties.inner_height.change.connect(refit);
    refit();
    for (const button of all("[data-zoom]")) {
      button.addEventListener("click", () => {
        if (button.dataset.zoom === "fit") return fit(plot, whole);
        const factor = button.dataset.zoom === "in" ? 1.4 : 1 / 1.4;
        view(plot, middle(plot.x_range), middle(plot.y_range), scaleOf(plot) * factor);
      });
    }
    boxes().selected.properties.indices.change.connect(() => {
      const [node] = boxes().selected.indices;
      if (node === undefined) return;
      boxes().selected.indices = []; // Bokeh draws what is selected by copies of the glyphs, which do not follow the zoom
      select(node);
    });
  }

  // Tables: a click on a title sorts by it, another turns it round; a parameter's row shows its node.
  function sort(table, at) {
    const head = all("th", table)[at];
    const numbers = head.classList.contains("n");
    const down = head.hasAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : numbers;
    for (const other of all("th", table)) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => (row.cells[at].dataset.v === undefined ? null : Number(row.cells[at].dataset.v));
    const text = (row) => row.cells[at].textContent;
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x !== null && y !== null) return x - y;
      if (x !== null || y !== null) return x === null ? -1 : 1;
      return text(a).localeCompare(text(b), "en", { numeric: true });
    };
    const rows = all("tbody tr", table).sort((a, b) => (down ? order(b, a) : order(a, b)));
    table.tBodies[0].append(...rows);
  }
  for (const table of all("table")) {
    all("th button", table).forEach((button, at) => button.addEventListener("click", () => sort(table, at)));
  }
  for (const row of all("#parameters tbody tr")) {
    const node = data.nodes[row.cells[0].textContent];
    if (node === undefined) continue;
    row.classList.add("linked");
    row.addEventListener("click", () => {
      select(node);
      document.getElementById("network")?.scrollIntoView({ behavior: "smooth", block: "start" });
    });
  }

  async function draw() {
    for (const [name, item] of Object.entries(data.figures)) {
      const [shown] = await Bokeh.embed.embed_item(item, "figure-" + name).then((views) => (views.roots ?? [...views]));
      plots[name] = shown.model;
    }
    repaint();
    if (plots.network) {
      drawn(plots.network);
      const shares = Array.from(boxes().data.tau, (v) => v ?? -1);
      if (shares.length) select(shares.indexOf(Math.max(...shares)));
    }
    root.dataset.ready = "true";
  }
  draw();
})();
