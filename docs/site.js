// Of what the theme makes when a page is shown: a button that copies code is no landmark, and what
// scrolls sideways is reached by keys.
const mend = () => {
  for (const nav of document.querySelectorAll(".md-code__nav")) nav.setAttribute("role", "none");
  const boxes = ".md-typeset__scrollwrap, .md-typeset p, .output, .formula";
  for (const box of document.querySelectorAll(boxes)) {
    if (box.scrollWidth > box.clientWidth + 1) box.tabIndex = 0;
  }
};
new MutationObserver(mend).observe(document.documentElement, { childList: true, subtree: true });
addEventListener("load", mend);
