// Shortcuts. One of a single sign waits until nobody is writing; a handler that answers false leaves the key.
const handlers = new Map();

export function onKey(name, handler) {
  handlers.set(name, [...(handlers.get(name) ?? []), handler]);
}

export function isWriting(element = document.activeElement) {
  return Boolean(element?.closest("input, textarea, select, [contenteditable]"));
}

document.addEventListener("keydown", (event) => {
  if (event.isComposing || event.ctrlKey || event.metaKey || document.querySelector("dialog[open]")) return;
  // The code, not the sign: with Alt a Mac writes another sign.
  const key = event.altKey ? `alt+${event.code.replace("Key", "").toLowerCase()}` : event.key.toLowerCase();
  if (key.length === 1 && isWriting(event.target)) return;
  for (const handler of handlers.get(key) ?? []) {
    if (handler(event) === false) continue;
    event.preventDefault();
    return;
  }
});
