// One image at a time: large, with zoom, beside examples of its two classes.

let isSingle = false;
let zoom = 1;
let drawn = null; // item
const MAX_ZOOM = 16;

function showSingle(wanted) {
  if (wanted && !view.length) return;
  isSingle = wanted;
  document.body.classList.toggle("one", wanted);
  element("single").hidden = !wanted;
  element("grid").hidden = wanted;
  element("one").setAttribute("aria-pressed", wanted);
  const hasRoom = isReview || matchMedia("(min-width: 60rem)").matches;
  if (wanted && hasRoom) element("side_classes").append(element("classes"));
  else placeClasses();
  drawn = null;
  showPage();
  select(current);
  if (wanted) element("single").focus({ preventScroll: true });
}

/** The classes among the answers in the bar: of an annotation before the others. */
function placeClasses() {
  element("answers")[isReview ? "append" : "prepend"](element("classes"));
}

function examplesOf(name, kind) {
  const pictures = data.examples?.[name] ?? [];
  if (!pictures.length) return "";
  return make(
    "figure",
    { class: `examples ${kind}` },
    make("figcaption", {}, `${name}: labels that look right`),
    ...pictures.map((source) => {
      if (data.texts) return make("blockquote", {}, source);
      const image = make("img", { src: source, alt: `an image labelled ${name}` });
      magnify(image);
      return image;
    }),
  );
}

function drawSingle() {
  const item = view[current];
  const entry = item ? entryOf(item) : noEntry;
  const answer = element("single_answer");
  answer.textContent = answerText(entry) || "no answer yet";
  answer.dataset.decision = entry[0];
  if (document.activeElement !== element("note")) element("note").value = entry[3];
  element("single_place").textContent = view.length ? `${current + 1} of ${view.length}` : "";
  if (item === drawn) return;
  drawn = item;
  setZoom(1);
  if (!item) {
    element("frame").replaceChildren(make("span", { class: "none" }, `No ${noun} matches the filters.`));
    element("facts").replaceChildren();
    element("examples").replaceChildren();
    return;
  }
  element("note").value = entry[3];
  element("frame").replaceChildren(wholeImage(item));
  element("facts").replaceChildren(
    make("p", { class: "name" }, nameOf(item)),
    ...facts(item).map(([kind, text]) => make("p", { class: `fact ${kind}` }, text)),
  );
  const names = isReview || (showsSuggestions && item.suggested) ? [item.suggested] : [];
  if (isReview) names.unshift(item.given);
  element("examples").replaceChildren(
    ...[...new Set(names)].map((name) => examplesOf(name, name === item.given ? "given" : "suggested")),
  );
  const next = view[current + 1];
  if (next && address(next)) new Image().src = address(next);
}

/** Zooms; the point (x, y) of the frame stays where it is. */
function setZoom(wanted, x, y) {
  const frame = element("frame");
  const before = zoom;
  zoom = Math.max(1, Math.min(wanted, MAX_ZOOM));
  frame.style.setProperty("--zoom", zoom);
  frame.classList.toggle("zoomed", zoom > 1);
  const [left, top] = [x ?? frame.clientWidth / 2, y ?? frame.clientHeight / 2];
  frame.scrollLeft = ((frame.scrollLeft + left) * zoom) / before - left;
  frame.scrollTop = ((frame.scrollTop + top) * zoom) / before - top;
}

function listenToFrame() {
  const frame = element("frame");
  const inFrame = (event) => {
    const { left, top } = frame.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  };
  frame.addEventListener("wheel", (event) => {
    event.preventDefault();
    setZoom(zoom * (event.deltaY < 0 ? 1.25 : 0.8), ...inFrame(event));
  }, { passive: false });
  frame.addEventListener("dblclick", (event) => setZoom(zoom > 1 ? 1 : 4, ...inFrame(event)));
  let from = null; // where a mouse began to pan; fingers scroll by themselves
  frame.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "mouse" || zoom === 1) return;
    from = [event.clientX + frame.scrollLeft, event.clientY + frame.scrollTop];
    frame.setPointerCapture(event.pointerId);
  });
  frame.addEventListener("pointermove", (event) => {
    if (!from) return;
    frame.scrollLeft = from[0] - event.clientX;
    frame.scrollTop = from[1] - event.clientY;
  });
  for (const name of ["pointerup", "pointercancel"]) frame.addEventListener(name, () => (from = null));
  element("zoom_in").addEventListener("click", () => setZoom(zoom * 1.5));
  element("zoom_out").addEventListener("click", () => setZoom(zoom / 1.5));
  element("zoom_fit").addEventListener("click", () => setZoom(1));
  element("back").addEventListener("click", () => select(current - 1));
  element("forward").addEventListener("click", () => select(current + 1));
  element("grid_again").addEventListener("click", () => showSingle(false));
  element("note").addEventListener("change", () => {
    const item = drawn;
    if (!item) return;
    const [decision, label, , , drawnMark] = entryOf(item);
    change([[item.index, [decision, label, Date.now(), element("note").value.trim(), drawnMark]]]);
    showState();
  });
}
