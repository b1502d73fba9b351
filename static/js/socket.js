// A socket that comes back: with back-off, at once when the network or the page does, and not when signed out.
const SIGNED_OUT = 4401;
const TOO_MANY = 4429;
const SHORTEST = 250;
const LONGEST = 15_000;
const PING_EVERY = 20_000;
const ANSWER_WITHIN = 10_000;

export class Socket {
  #address;
  #on;
  #socket = null;
  #wait = SHORTEST;
  #retry = 0;
  #ping = 0;
  #deadline = 0;

  // `on`: opened(), frame(object), and changed(state, seconds) with open, trying, waiting, offline, signed-out, refused.
  constructor(address, on) {
    this.#address = address;
    this.#on = on;
    addEventListener("online", () => this.connect());
    addEventListener("offline", () => this.#socket?.close());
    addEventListener("pageshow", (event) => event.persisted && this.connect());
    document.addEventListener("visibilitychange", () => !document.hidden && this.connect());
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  connect() {
    if (this.#socket && this.#socket.readyState <= WebSocket.OPEN) return;
    clearTimeout(this.#retry);
    this.#on.changed("trying");
    const socket = (this.#socket = new WebSocket(this.#address));
    socket.onopen = () => {
      this.#listen();
      this.#on.opened();
    };
    socket.onmessage = (event) => {
      clearTimeout(this.#deadline);
      this.#wait = SHORTEST;
      this.#on.changed("open");
      this.#on.frame(JSON.parse(event.data));
    };
    socket.onclose = (event) => this.#socket === socket && this.#closed(event.code);
  }

  send(frame) {
    if (!this.isOpen) return false;
    this.#socket.send(JSON.stringify(frame));
    return true;
  }

  // A connection that died without a word shows only by not answering.
  #listen() {
    const ask = () => {
      this.send({ type: "ping" });
      clearTimeout(this.#deadline);
      this.#deadline = setTimeout(() => this.#giveUp(), ANSWER_WITHIN);
    };
    clearInterval(this.#ping);
    this.#ping = setInterval(ask, PING_EVERY);
    ask();
  }

  #giveUp() {
    const dead = this.#socket;
    this.#socket = null;
    dead?.close();
    this.#closed(1006);
  }

  #closed(code) {
    clearInterval(this.#ping);
    clearTimeout(this.#deadline);
    clearTimeout(this.#retry);
    if (code === SIGNED_OUT) return this.#on.changed("signed-out");
    // Refused for good, and an error has said why.
    if (code >= 4400 && code < 4500 && code !== TOO_MANY) return this.#on.changed("refused");
    if (!navigator.onLine) return this.#on.changed("offline");
    const wait = this.#wait * (0.75 + Math.random() / 2);
    this.#wait = Math.min(this.#wait * 2, LONGEST);
    this.#on.changed("waiting", Math.ceil(wait / 1000));
    this.#retry = setTimeout(() => this.connect(), wait);
  }
}
