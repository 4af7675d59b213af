/* What pages gain in a browser; without it they lack nothing that one reads. It asks no other host for anything. */
document.addEventListener("DOMContentLoaded", () => {
  const page = location.pathname.split("/").pop().replace(/\.html$/, "") || "page";

  // Take a figure along. A vector figure becomes a document of its own, so that pointing at a mark says what it is.
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
    if (kind === "svg") alive(image);
  });
  document.querySelectorAll(".bd-article a.famf-take[data-table]").forEach((link, number) => {
    link.download = `${page}-table-${number + 1}.csv`;
    link.setAttribute("aria-label", `Download table ${number + 1} as CSV`);
  });

  function alive(image) {
    const whenReady = () => {
      const object = document.createElement("object");
      object.type = "image/svg+xml";
      object.data = image.getAttribute("src");
      object.className = image.className;
      object.setAttribute("role", "img");
      object.setAttribute("aria-label", image.alt || "Figure");
      object.style.width = `${image.naturalWidth}px`; // as large as it was: nothing moves
      object.style.aspectRatio = `${image.naturalWidth} / ${image.naturalHeight}`;
      object.addEventListener("load", () => image.remove(), { once: true });
      object.addEventListener("error", () => object.remove(), { once: true });
      image.before(object);
    };
    image.complete ? whenReady() : image.addEventListener("load", whenReady, { once: true });
  }

  // What screen readers miss in the theme: a name for the arrows of the side bar, a role that lists may hold.
  document.querySelectorAll("details > summary").forEach((summary) => {
    if (summary.textContent.trim()) return;
    const name = summary.closest("li")?.querySelector("a")?.textContent.trim();
    summary.setAttribute("aria-label", `Pages below ${name ?? "this one"}`);
  });
  document.querySelectorAll('.citation[role="doc-biblioentry"]').forEach((entry) => entry.setAttribute("role", "listitem"));
});
