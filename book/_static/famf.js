/* What pages gain in a browser; without it they lack nothing that one reads. It asks no other host for anything. */

// Results of the search quote pages. A formula is quoted as text, not as TeX.
function textOfFormula(tex) {
  const symbols = {
    alpha: "α", beta: "β", epsilon: "ε", eta: "η", gamma: "γ", kappa: "κ", lambda: "λ", mu: "μ", nu: "ν", phi: "φ", rho: "ρ",
    sigma: "σ", varepsilon: "ε", approx: " ≈ ", cdot: "·", dots: "…", ge: " ≥ ", in: " ∈ ", le: " ≤ ", lVert: "‖", pm: " ± ",
    rVert: "‖", sqrt: "√", sum: "Σ", times: " × ", to: " → ", top: "ᵀ",
  };
  return tex
    .replace(/\\(begin|end|tag)\{.*?\}/g, "")
    .replace(/\\([a-z]+)\s*/gi, (_, name) => symbols[name] ?? " ")
    .replace(/\\.|[{}\\]/g, "");
}

document.addEventListener("DOMContentLoaded", () => {
  if (typeof Search !== "undefined") {
    const text = Search.htmlToText;
    const formula = /(<(span|div)[^>]*class="math[^>]*>)(.*?)(?=<\/\2>)/gs;
    Search.htmlToText = (html, anchor) => text(html.replace(formula, (_, tag, kind, tex) => tag + textOfFormula(tex)), anchor);
  }
  const page = location.pathname.split("/").pop().replace(/\.html$/, "") || "page";

  // Formulas move the lines around them, once when they are set and once more when their fonts come.
  Promise.resolve(window.MathJax?.startup?.promise)
    .then(() => document.body.offsetHeight && document.fonts.ready) // the height: it makes the browser ask for them
    .finally(() => document.documentElement.classList.add("famf-set"));

  // Take a figure along. Pointing at the marks of a vector figure says what they are.
  document.querySelectorAll(".bd-article .cell_output img").forEach((image, number) => {
    const source = image.getAttribute("src");
    const kind = source.split(".").pop();
    const link = document.createElement("a");
    link.href = source;
    link.download = `${page}-figure-${number + 1}.${kind}`;
    link.className = "famf-take";
    link.textContent = kind.toUpperCase();
    link.setAttribute("aria-label", `Download figure ${number + 1} as ${kind.toUpperCase()}`);
    (image.closest("figure")?.querySelector("figcaption > p") ?? image.parentElement).append(link);
    // A drawing with dark colours of its own stays a picture: as a document it would take those of the system.
    if (kind === "svg" && !image.classList.contains("dark-light")) {
      image.addEventListener("pointerenter", () => alive(image));
    }
  });
  document.querySelectorAll(".bd-article a.famf-take[data-table]").forEach((link, number) => {
    link.download = `${page}-table-${number + 1}.csv`;
    link.setAttribute("aria-label", `Download table ${number + 1} as CSV`);
  });

  // The drawing as a document of its own lies over its picture while somebody points at it, so that nothing moves.
  function alive(image) {
    if (image.style.visibility === "hidden") return;
    const object = document.createElement("object");
    object.type = "image/svg+xml";
    object.data = image.getAttribute("src");
    object.className = image.className;
    object.setAttribute("role", "img");
    object.setAttribute("aria-label", image.alt || "Figure");
    image.parentElement.style.position = "relative";
    object.style.cssText = `position: absolute; box-sizing: border-box; max-width: none; left: ${image.offsetLeft}px;
      top: ${image.offsetTop}px; width: ${image.offsetWidth}px; height: ${image.offsetHeight}px`;
    const still = () => {
      image.style.visibility = "";
      object.remove();
    };
    object.addEventListener("load", () => (image.style.visibility = "hidden"), { once: true });
    for (const [what, how] of [[object, "error"], [object, "pointerleave"], [window, "resize"]]) {
      what.addEventListener(how, still, { once: true });
    }
    image.after(object);
  }

  // What screen readers miss in the theme: names for the arrows of the side bar, roles that lists and their items have.
  document.querySelectorAll("details > summary").forEach((summary) => {
    if (summary.textContent.trim()) return;
    const name = summary.closest("li")?.querySelector("a")?.textContent.trim();
    summary.setAttribute("aria-label", `Pages below ${name ?? "this one"}`);
  });
  document.querySelectorAll("dt > dl").forEach((list) => {
    list.setAttribute("role", "list"); // the lines of a long signature
    for (const line of list.children) line.setAttribute("role", "listitem");
  });
  document.querySelectorAll('.citation[role="doc-biblioentry"]').forEach((entry) => entry.setAttribute("role", "listitem"));
});
