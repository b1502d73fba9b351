// Answers to the model's questions, by button or by A, S and D.
import { onKey } from "./keys.js";

// A sign typed at the very moment when the question appears is no answer to it.
const GRACE = 600;
const KEYS = { a: "allow", s: "allow_always", d: "deny" };
const seen = new Map();

// Who only reads gets no choices, and no focus.
function open() {
  return [...document.querySelectorAll(".question:has(.choices)")];
}

export function watchQuestions(send, composer) {
  const decide = (button) => {
    const card = button.closest(".question");
    if (!send({ type: "permission", request: card.dataset.request, decision: button.dataset.decision })) return;
    // Before the buttons go grey: a disabled button loses the focus to nowhere.
    if (card.contains(document.activeElement)) composer.focus();
    for (const choice of card.querySelectorAll("button")) choice.disabled = true;
  };
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-decision]");
    if (button) decide(button);
  });
  for (const [key, decision] of Object.entries(KEYS)) {
    onKey(key, () => {
      const card = open().find((card) => performance.now() - seen.get(card) > GRACE);
      const button = card?.querySelector(`[data-decision="${decision}"]:enabled`);
      if (!button?.checkVisibility()) return false;
      decide(button);
    });
  }
  // A new question takes the focus, unless somebody is writing.
  return () => {
    for (const card of open()) {
      if (seen.has(card)) continue;
      seen.set(card, performance.now());
      if (composer.isEmpty) card.focus({ preventScroll: true });
    }
  };
}

export function reopen(request) {
  const card = open().find((card) => card.dataset.request === request);
  for (const choice of card?.querySelectorAll("button") ?? []) choice.disabled = false;
}
