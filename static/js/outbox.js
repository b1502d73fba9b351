// Messages on their way: kept in the browser until the page shows their turn, and sent again until then.
// Each has an id, so that sent twice it is still one turn. `whose`: the next person at this browser is somebody else.
export class Outbox {
  #key;
  #place = document.getElementById("outbox");
  #template = document.getElementById("pending");

  constructor(whose, conversation) {
    this.#key = `parley:outbox:${whose}:${conversation || "new"}`;
    this.#show();
  }

  get messages() {
    return JSON.parse(localStorage.getItem(this.#key) ?? "[]");
  }

  add(content) {
    const message = { id: newId(), content };
    this.#keep([...this.messages, message]);
    return message;
  }

  // Takes back what was refused; its text, or nothing if it isn't ours.
  refuse(id) {
    const refused = this.messages.find((message) => message.id === id);
    if (refused) this.#keep(this.messages.filter((message) => message !== refused && message.id !== id));
    return refused?.content;
  }

  // Forgets what the page shows by now.
  settle() {
    const waiting = this.messages.filter(({ id }) => !document.querySelector(`[data-client-id="${id}"]`));
    if (waiting.length !== this.messages.length) this.#keep(waiting);
  }

  // The conversation has begun: what is still waiting belongs to it.
  moveTo(whose, conversation) {
    const waiting = this.messages;
    localStorage.removeItem(this.#key);
    this.#key = `parley:outbox:${whose}:${conversation}`;
    this.#keep([...this.messages, ...waiting]);
  }

  #keep(messages) {
    if (messages.length) localStorage.setItem(this.#key, JSON.stringify(messages));
    else localStorage.removeItem(this.#key);
    this.#show();
  }

  #show() {
    this.#place.replaceChildren(
      ...this.messages.map(({ content }) => {
        const shown = this.#template.content.cloneNode(true);
        shown.querySelector("p").textContent = content;
        return shown;
      }),
    );
  }
}

// crypto.randomUUID() exists on https and localhost only.
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const digits = [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
