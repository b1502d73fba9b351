// The field at the bottom: Enter sends, Shift+Enter breaks the line, and nothing typed is lost by a reload.
const form = document.getElementById("composer");
const field = document.getElementById("message");
const narrow = matchMedia("(pointer: coarse) and (width < 40rem)");

export class Composer {
  #key;
  #most = Number(field?.dataset.most);

  // `send(text)` takes a message; `tooLong(text)` is told instead when it can't be taken.
  constructor(whose, conversation, send, tooLong) {
    this.#key = `parley:draft:${whose}:${conversation || "new"}`;
    if (!form) return;
    field.value ||= localStorage.getItem(this.#key) ?? "";
    this.#grow();
    field.addEventListener("input", () => this.#changed());
    field.addEventListener("keydown", (event) => this.#pressed(event));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = field.value.trim();
      if (text.length > this.#most) return tooLong(text.length, this.#most);
      if (!text) return field.focus();
      this.set("");
      send(text);
    });
    document.addEventListener("click", (event) => {
      const starter = event.target.closest("[data-prompt]");
      if (starter) this.set(starter.dataset.prompt);
    });
  }

  get isEmpty() {
    return !field?.value.trim();
  }

  focus() {
    (field ?? document.getElementById("main")).focus({ preventScroll: true });
  }

  set(text) {
    field.value = text;
    this.#changed();
    this.focus();
  }

  // Text that could not be sent comes back, before what was typed since.
  giveBack(text) {
    this.set([text, field.value].filter(Boolean).join("\n\n"));
  }

  moveTo(whose, conversation) {
    localStorage.removeItem(this.#key);
    this.#key = `parley:draft:${whose}:${conversation}`;
    this.#changed();
  }

  #pressed(event) {
    // On a phone Enter breaks the line: there is no Shift, but a button.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || narrow.matches) return;
    event.preventDefault();
    form.requestSubmit();
  }

  #changed() {
    if (field.value) localStorage.setItem(this.#key, field.value);
    else localStorage.removeItem(this.#key);
    this.#grow();
  }

  #grow() {
    if (CSS.supports("field-sizing", "content")) return;
    field.rows = Math.min(field.value.split("\n").length, 10);
  }
}
