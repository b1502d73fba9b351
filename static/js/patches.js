// Brings the page from one state to the next. What a patch means is told in conversations/parts.py.
let refreshing = 0;
const stale = new Set();

const operations = {
  append: (target, patch) => target.insertAdjacentHTML("beforeend", patch.html),
  before: (target, patch) => target.insertAdjacentHTML("beforebegin", patch.html),
  fill: (target, patch) => (target.innerHTML = patch.html),
  replace: (target, patch) => (target.outerHTML = patch.html),
  remove: (target) => target.remove(),
  text: (target, patch) => (target.textContent = patch.text),
  state: (target, patch) => (target.dataset.state = patch.text),
  announce: (target, patch) => (target.textContent = patch.text),
  refresh: (target) => refreshSoon(target),
  write: (target, patch) => {
    if (target.lastChild?.nodeType === Node.TEXT_NODE) target.lastChild.appendData(patch.text);
    else target.append(patch.text);
  },
};

// `refocus` is called when the element that had the focus went away.
export function applyPatches(patches, refocus) {
  const focused = document.activeElement;
  for (const patch of patches) {
    const target = document.getElementById(patch.target);
    if (target) operations[patch.op]?.(target, patch);
  }
  if (focused && !focused.isConnected) refocus();
}

function refreshSoon(target) {
  stale.add(target);
  clearTimeout(refreshing);
  refreshing = setTimeout(() => {
    for (const element of stale) window.htmx?.trigger(element, "refresh");
    stale.clear();
  }, 150);
}
