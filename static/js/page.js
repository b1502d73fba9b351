// What every page does: the folded sidebar, dialogs, shortcuts that lead elsewhere.
import { onKey } from "./keys.js";

const frame = document.body;
const toggle = document.querySelector("[data-sidebar-open]");
const sidebar = document.getElementById("sidebar");

function setSidebar(state) {
  frame.dataset.sidebar = state;
  toggle?.setAttribute("aria-expanded", String(state === "open"));
  if (state === "open") sidebar.querySelector("a, input")?.focus();
  else if (sidebar.contains(document.activeElement) && toggle?.checkVisibility()) toggle.focus();
}

document.addEventListener("click", (event) => {
  const pressed = event.target.closest("[data-sidebar-open], [data-sidebar-close], [data-dialog]");
  if (!pressed) return;
  if (pressed.dataset.dialog) document.getElementById(pressed.dataset.dialog).showModal();
  else setSidebar("sidebarOpen" in pressed.dataset ? "open" : "closed");
});

document.addEventListener("click", (event) => {
  if (event.target.closest("[data-close]")) event.target.closest("dialog").close();
});
// A dialog whose form came back with an error.
document.querySelector("dialog[data-open]")?.showModal();

onKey("?", () => document.getElementById("shortcuts").showModal());
onKey("alt+n", () => document.querySelector("[data-key=new]").click());
onKey("alt+k", () => {
  setSidebar("open");
  document.getElementById("search").focus();
});
onKey("escape", () => {
  if (frame.dataset.sidebar !== "open") return false;
  setSidebar("closed");
});
