"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse), (max-width: 640px)");

  // Figures name the page's CSS variables where a colour or a font stands; text is never looked at.
  const themed = (value, key, styles) => {
    if (Array.isArray(value)) {
      return value.map((item) => (typeof item === "object" && item !== null ? themed(item, key, styles) : item));
    }
    if (typeof value === "object" && value !== null) {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v, k, styles)]));
    }
    const name = /(color|family)$/.test(key) && /^var\((--[a-z-]+)\)$/.exec(value);
    return name ? styles.getPropertyValue(name[1]).trim() : value;
  };

  // A rectangle gets its label where the label fits; the others say their name when pointed at.
  const fit = (trace, layout, width, height) => {
    if (!trace.text || trace.text.length === 0) return;
    const [x0, x1] = layout.xaxis.range, [y0, y1] = layout.yaxis.range, [d0, d1] = layout.yaxis.domain;
    const perStep = width / (x1 - x0), perByte = (height * (d1 - d0)) / (y1 - y0);
    trace.text = trace.text.map((text, i) =>
      trace.width[i] * perStep > 6.6 * text.length + 6 && trace.y[i] * perByte > 13 ? text : "");
  };

  const draw = () => {
    const styles = getComputedStyle(document.documentElement);
    for (const [id, figure] of Object.entries(figures)) {
      const box = document.getElementById(id);
      const { data, layout } = themed(figure, "", styles);
      layout.dragmode = touch.matches ? false : "zoom";
      for (const trace of data) fit(trace, layout, box.clientWidth - 65, box.clientHeight - 75);
      Plotly.react(box, data, layout, {
        responsive: true,
        displaylogo: false,
        displayModeBar: touch.matches ? false : "hover",
        modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
      });
    }
  };

  for (const group of document.querySelectorAll(".buttons")) {
    const axis = figures[group.dataset.for].layout.yaxis, range = axis.range;
    group.addEventListener("click", (event) => {
      const scale = event.target.dataset.scale;
      if (!scale) return;
      axis.type = scale;
      axis.range = scale === "linear" ? range : undefined;
      for (const button of group.children) {
        button.setAttribute("aria-pressed", String(button.dataset.scale === scale));
      }
      draw();
    });
  }

  let waiting = 0;
  const redraw = () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(draw);
  };
  draw();
  dark.addEventListener("change", redraw);
  window.addEventListener("resize", redraw);
})();
