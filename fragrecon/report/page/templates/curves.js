// Draws the selected figure and metric.
(() => {
  "use strict";
  const COLUMN = 150; // width of a legend's entry, in pixels

  for (const part of document.querySelectorAll(".curves")) {
    const { figures, metrics } = JSON.parse(part.querySelector("script").textContent);
    const plot = part.querySelector(".plot");
    const metric = part.querySelector(".metric");
    const against = part.querySelector(".against");
    const drawn = new Map(); // element and document, by index of the figure

    async function embed(place) {
      const element = plot.appendChild(document.createElement("div"));
      const views = await Bokeh.embed.embed_item(figures[place].item, element);
      drawn.set(place, { element, document: [...views][0].model.document });
    }

    async function show() {
      const place = Number(against?.value ?? 0);
      if (!drawn.has(place)) await embed(place);
      for (const [other, { element }] of drawn) element.hidden = other !== place;
      const found = drawn.get(place).document;
      const legend = found.get_model_by_name("legend");
      figures[place].points[metric.value].forEach((columns, line) => {
        found.get_model_by_name(`line ${line}`).data = columns;
        if (legend) legend.items[line].visible = columns.x.length > 0;
      });
      found.get_model_by_name("score").axis_label = metrics[metric.value];
      if (legend) legend.ncols = Math.max(1, Math.floor(plot.clientWidth / COLUMN));
    }

    metric.addEventListener("change", show);
    against?.addEventListener("change", show);
    show();
  }
})();
