// Copying an answer, a block of code or a link, and wrapping its long lines.
async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Without https there is no clipboard but this old way.
  const area = document.createElement("textarea");
  area.value = text;
  area.className = "sr-only";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

function textFor(button) {
  if (button.dataset.copy === "field") return button.closest(".fresh").querySelector("input").value;
  if (button.dataset.copy === "code") return button.closest("figure").querySelector("pre").textContent;
  const texts = button.closest(".turn").querySelectorAll(".parts > .text");
  return [...texts].map((text) => text.innerText.trim()).join("\n\n");
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy], [data-wrap]:is(button)");
  if (!button) return;
  if ("wrap" in button.dataset) {
    const wraps = button.closest("figure").toggleAttribute("data-wrap");
    button.setAttribute("aria-pressed", String(wraps));
    return;
  }
  await copy(textFor(button));
  const label = button.querySelector("span");
  const before = label.dataset.label ?? (label.dataset.label = label.textContent);
  label.textContent = button.dataset.done;
  setTimeout(() => (label.textContent = before), 1500);
});
