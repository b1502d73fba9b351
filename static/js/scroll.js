// Follows the end of the page while the reader is there, and stays where the reader went.
const NEAR = 64;
const FAR = 240;
const page = document.scrollingElement;
const latest = document.getElementById("latest");

let following = true;
let last = page.scrollTop;

function distance() {
  return page.scrollHeight - page.clientHeight - page.scrollTop;
}

function show() {
  latest.hidden = following || distance() < FAR;
}

export function follow() {
  if (following) page.scrollTop = page.scrollHeight;
  show();
}

export function jump() {
  following = true;
  follow();
}

addEventListener(
  "scroll",
  () => {
    if (distance() < NEAR) following = true;
    else if (page.scrollTop < last) following = false;
    last = page.scrollTop;
    show();
  },
  { passive: true },
);

// What the reader opens is read where it is.
document.addEventListener("toggle", () => show(), { capture: true });
addEventListener("resize", follow);
latest.querySelector("button").addEventListener("click", jump);
history.scrollRestoration = "manual";
jump();
requestAnimationFrame(follow);
document.fonts.ready.then(follow);
