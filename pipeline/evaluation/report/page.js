"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const hover = document.getElementById("hover");
  const dialog = document.getElementById("rows");
  const digits = { psnr: 4, ssim: 6, lpips: 6 };

  function element(tag, text, parent) {
    const made = document.createElement(tag);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  function place(event) {
    const x = Math.min(event.clientX + 12, innerWidth - hover.offsetWidth - 8);
    hover.style.left = `${Math.max(8, x)}px`;
    hover.style.top = `${Math.max(8, event.clientY - hover.offsetHeight - 10)}px`;
  }

  /* One figure: the filter that finds its rows in rows.parquet, and their values. */
  function showFigure(number) {
    const [index, subnet, suite, scaleH, scaleW, metric, values] = data.figures[number];
    const [name, digest] = data.models[index];
    const [lr, protocol] = data.settings[suite];
    const scale = scaleH === scaleW ? `×${scaleH}` : `×${scaleH}x${scaleW}`;
    const shown = (value) => (typeof value === "number" ? value.toFixed(digits[metric]) : value ?? "no score");
    const scored = values.filter((value) => value !== null).map(Number);
    const mean = scored.reduce((sum, value) => sum + value, 0) / scored.length;
    element("h3", `${suite} ${scale}, ${name}, subnet ${subnet}: ${metric.toUpperCase()}`, dialog);
    element(
      "code",
      `rows.parquet where model_digest = '${digest}' and subnet = '${subnet}' and suite = '${suite}' and ` +
        `scale_h = ${scaleH} and scale_w = ${scaleW} and lr = '${lr}' and protocol = '${protocol}' and metric = '${metric}'`,
      dialog
    );
    const table = element("table", undefined, dialog);
    values.forEach((value, i) => {
      const row = element("tr", undefined, table);
      element("th", data.images[suite][i], row).scope = "row";
      element("td", shown(value), row);
    });
    const last = element("tr", undefined, table);
    element("th", `mean of ${scored.length}`, last).scope = "row";
    element("td", shown(mean), last);
  }

  function showRows(target) {
    dialog.replaceChildren();
    const form = element("form", undefined, dialog);
    form.method = "dialog";
    element("button", "Close", form);
    target.dataset.figures.split(" ").forEach((number) => showFigure(Number(number)));
    dialog.showModal();
    dialog.scrollTop = 0;
  }

  document.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
    const target = event.target.closest("[data-figures]");
    if (target && target.dataset.figures) showRows(target);
  });
  document.addEventListener("pointermove", (event) => {
    const label = event.target.dataset ? event.target.dataset.label : undefined;
    hover.hidden = !label;
    if (!label) return;
    hover.textContent = label;
    place(event);
  });
})();
