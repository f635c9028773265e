"use strict";
(function () {
  const page = JSON.parse(document.getElementById("page-data").textContent);
  const darkQuery = window.matchMedia("(prefers-color-scheme: dark)");
  const themes = {
    light: {
      runs: ["#0f6b74", "#c05a26", "#5a57a8", "#9a7a12", "#9b3d6b", "#4b7f3f"],
      reference: "#1c232b", ink: "#1c232b", soft: "#66707a", grid: "#eceee9", card: "#ffffff"
    },
    dark: {
      runs: ["#58b8c0", "#ee9460", "#a6a3ef", "#d8b94e", "#e08ab4", "#92c985"],
      reference: "#e4e7e9", ink: "#e4e7e9", soft: "#98a2ab", grid: "#2a3138", card: "#1a1f24"
    }
  };
  const theme = () => (darkQuery.matches && !window.matchMedia("print").matches ? themes.dark : themes.light);

  /* "$run0/0.2" -> "rgba(...)": colours are names until the theme is known */
  function paint(name) {
    const [key, opacity] = name.slice(1).split("/");
    const colors = theme();
    const hex = key.startsWith("run") ? colors.runs[Number(key.slice(3))] : colors[key];
    if (opacity === undefined) return hex;
    const part = (at) => parseInt(hex.slice(at, at + 2), 16);
    return `rgba(${part(1)},${part(3)},${part(5)},${opacity})`;
  }
  function themed(value) {
    if (typeof value === "string") return value.startsWith("$") ? paint(value) : value;
    if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map(themed);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, themed(inner)]));
    }
    return value;
  }

  function layoutOf(figure, width) {
    const narrow = width < 420;
    const colors = theme();
    const axis = {
      gridcolor: colors.grid, linecolor: colors.soft, tickcolor: colors.soft, ticks: "outside", ticklen: 4,
      zeroline: false, showline: true, automargin: true, title: { standoff: 8, font: { size: 13, color: colors.soft } }
    };
    const own = themed(figure.layout);
    const square = own.yaxis && own.yaxis.scaleanchor;
    const height = square ? Math.min(figure.height, width - 6) : figure.height;
    if (narrow && own.xaxis && own.xaxis.tickvals) {
      const every = (values) => values.filter((_, index) => index % 2 === 1);
      own.xaxis = { ...own.xaxis, tickvals: every(own.xaxis.tickvals), ticktext: every(own.xaxis.ticktext) };
    }
    const merged = (extra) => ({ ...axis, ...extra, title: { ...axis.title, ...(extra || {}).title } });
    return {
      showlegend: true,
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", xanchor: "left", font: { size: 12 }, itemsizing: "constant" },
      margin: { l: narrow ? 46 : 58, r: 12, t: own.showlegend === false ? 16 : 30, b: 46 },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: colors.ink },
      hoverlabel: { bgcolor: colors.card, bordercolor: colors.soft, font: { color: colors.ink, size: 12.5 } },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: colors.soft, activecolor: colors.ink },
      hovermode: "closest", ...own, height, xaxis: merged(own.xaxis), yaxis: merged(own.yaxis)
    };
  }
  const config = {
    responsive: true, displaylogo: false,
    displayModeBar: window.matchMedia("(hover: hover)").matches ? "hover" : false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
    toImageButtonOptions: { format: "svg" }
  };
  function draw(first) {
    for (const [id, figure] of Object.entries(page.figures)) {
      const element = document.getElementById(id);
      const layout = layoutOf(figure, element.clientWidth);
      element.style.minHeight = `${layout.height}px`;
      const action = first ? Plotly.newPlot : Plotly.react;
      action(element, themed(figure.traces), layout, config);
    }
    for (const swatch of document.querySelectorAll("[data-color]")) swatch.style.background = paint(swatch.dataset.color);
  }

  function unpack(scene) {
    const bytes = Uint8Array.from(atob(scene.positions), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return (index) => view.getInt16(2 * index, true) * scene.resolution_A;
  }
  function hasWebGL() {
    try {
      const canvas = document.createElement("canvas");
      return !!(canvas.getContext("webgl2") || canvas.getContext("webgl"));
    } catch (error) { return false; }
  }

  const elementColor = (element) => $3Dmol.elementColors.Jmol[element] ?? 0xb0b0b0;

  const views = [];
  function show3D(card, scene) {
    const stage = card.querySelector(".stage"), button = card.querySelector("button");
    const slider = card.querySelector("input"), clock = card.querySelector("output");
    if (typeof $3Dmol === "undefined" || !hasWebGL()) {
      stage.innerHTML = '<p class="sentence">This browser offers no WebGL, so the trajectory cannot be shown in 3D here.</p>';
      card.querySelector(".controls").hidden = true;
      card.querySelector(".controls").style.display = "none";
      return;
    }
    const n = scene.species.length, at = unpack(scene);
    const viewer = $3Dmol.createViewer(stage, { backgroundColor: "white", backgroundAlpha: 0, antialias: true });
    const model = viewer.addModel();
    const partners = Array.from({ length: n }, () => []);
    for (let k = 0; k < scene.bonds.length; k += 2) {
      partners[scene.bonds[k]].push(scene.bonds[k + 1]);
      partners[scene.bonds[k + 1]].push(scene.bonds[k]);
    }
    for (let f = 0; f < scene.n_frames; f++) {
      const atoms = [];
      for (let a = 0; a < n; a++) {
        const base = 3 * (f * n + a);
        atoms.push({
          elem: scene.elements[scene.species[a]], x: at(base), y: at(base + 1), z: at(base + 2),
          bonds: partners[a], bondOrder: partners[a].map(() => 1), serial: a, index: a, hetflag: true,
          color: elementColor(scene.elements[scene.species[a]])
        });
      }
      model.addFrame(atoms);
    }
    model.setFrame(0);
    const bonded = scene.bonds.length > 0;
    viewer.setStyle({}, bonded ? { stick: { radius: 0.13 }, sphere: { scale: 0.24 } } : { sphere: { scale: 0.42 } });
    if (scene.cell) {
      const corner = (i, j, k) => ({
        x: i * scene.cell[0][0] + j * scene.cell[1][0] + k * scene.cell[2][0],
        y: i * scene.cell[0][1] + j * scene.cell[1][1] + k * scene.cell[2][1],
        z: i * scene.cell[0][2] + j * scene.cell[1][2] + k * scene.cell[2][2]
      });
      for (const i of [0, 1]) for (const j of [0, 1]) for (const edge of [[[0, i, j], [1, i, j]], [[i, 0, j], [i, 1, j]], [[i, j, 0], [i, j, 1]]]) {
        viewer.addCylinder({ start: corner(...edge[0]), end: corner(...edge[1]), radius: 0.04, color: "#8b959e", fromCap: 1, toCap: 1 });
      }
    }
    viewer.zoomTo();
    viewer.rotate(24, "y");
    viewer.rotate(14, "x");
    viewer.zoom(1.12);
    viewer.render();

    let frame = 0, timer = null;
    function show(index) {
      frame = index;
      slider.value = String(index);
      clock.textContent = `${scene.times_ps[index].toFixed(scene.times_ps[scene.n_frames - 1] < 10 ? 2 : 1)} ps`;
      model.setFrame(index);
      viewer.render();
    }
    function pause() {
      clearTimeout(timer);
      timer = null;
      button.textContent = "Play";
      button.setAttribute("aria-pressed", "false");
    }
    function advance() {
      show((frame + 1) % scene.n_frames);
      timer = setTimeout(advance, 80); /* after drawing, so that slow graphics never block the page */
    }
    function play() {
      timer = setTimeout(advance, 0);
      button.textContent = "Pause";
      button.setAttribute("aria-pressed", "true");
    }
    button.addEventListener("click", () => (timer === null ? play() : pause()));
    slider.addEventListener("input", () => { pause(); show(Number(slider.value)); });
    /* the wheel scrolls the page until the view is clicked */
    let active = false;
    stage.addEventListener("pointerdown", () => { active = true; }, true);
    stage.addEventListener("pointerleave", () => { active = false; });
    stage.addEventListener("wheel", (event) => { if (!active) event.stopPropagation(); }, true);
    if (scene.n_frames < 2) card.querySelector(".controls").style.display = "none";
    const legend = card.querySelector(".legend");
    for (const element of scene.elements) {
      const entry = document.createElement("span");
      const dot = document.createElement("span");
      dot.className = "dot";
      dot.style.background = `#${elementColor(element).toString(16).padStart(6, "0")}`;
      entry.append(dot, element);
      legend.append(entry);
    }
    const still = document.createElement("img");
    still.className = "still";
    still.alt = "the trajectory, one frame";
    stage.append(still);
    window.addEventListener("beforeprint", () => { still.src = viewer.pngURI(); });
    show(0);
    views.push({ viewer, model, scene, frame: () => frame, playing: () => timer !== null });
  }

  draw(true);
  darkQuery.addEventListener("change", () => draw(false));
  for (const name of ["beforeprint", "afterprint"]) window.addEventListener(name, () => draw(false));
  page.scenes.forEach((scene, index) => show3D(document.getElementById(`scene-${index}`), scene));
  window.kinetograph = { views };
})();
