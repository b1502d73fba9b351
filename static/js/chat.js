// The chat page: a socket brings patches, the composer sends messages.
import { update } from "./clock.js";
import { Composer } from "./composer.js";
import "./copy.js";
import { onKey } from "./keys.js";
import { Outbox } from "./outbox.js";
import { applyPatches } from "./patches.js";
import { reopen, watchQuestions } from "./questions.js";
import { follow, jump } from "./scroll.js";
import { Socket } from "./socket.js";

const dock = document.getElementById("thread");
const stop = document.getElementById("stop"); // who only reads has none
const notice = document.getElementById("connection");
const problem = document.getElementById("problem");
const sharing = document.getElementById("sharing");
const { whose, live, address } = dock.dataset;

let conversation = dock.dataset.conversation;
let seq = Number(dock.dataset.seq);

const outbox = new Outbox(whose, conversation);
const composer = new Composer(whose, conversation, sendMessage, (length, most) =>
  tell(problem.dataset.tooLong.replace("%(length)s", length).replace("%(most)s", most)),
);
const socket = new Socket(new URL(live, location.href).href.replace(/^http/, "ws"), {
  opened: catchUp,
  changed: showConnection,
  frame: (frame) => frames[frame.type]?.(frame),
});
const focusQuestions = watchQuestions((frame) => socket.send(frame), composer);

const frames = {
  patches(frame) {
    if (!conversation) begin(frame.conversation);
    if (frame.conversation !== conversation || frame.seq <= seq) return;
    applyPatches(frame.patches, () => composer.focus());
    seq = frame.seq;
    if (stop) stop.disabled = false;
    outbox.settle();
    update();
    focusQuestions();
    follow();
  },
  error(frame) {
    // The socket closes next, and the notice of that says what to do.
    if (frame.error.type === "authentication_error") return;
    const text = outbox.refuse(frame.id);
    if (text !== undefined) composer.giveBack(text);
    reopen(frame.request);
    if (stop) stop.disabled = false;
    tell(text === undefined ? frame.error.message : `${frame.error.message} ${problem.dataset.kept}`);
  },
};

function catchUp() {
  if (conversation) {
    socket.send({ type: "subscribe", conversation, after: seq });
    if (stop) socket.send({ type: "warm", conversation });
  } else if (stop && !outbox.messages.length) {
    socket.send({ type: "warm" });
  }
  for (const message of outbox.messages) sendNow(message);
}

function sendMessage(text) {
  problem.replaceChildren();
  sendNow(outbox.add(text));
  jump();
}

function sendNow({ id, content }) {
  socket.send({ type: "message", id, content, ...(conversation && { conversation }) });
}

// The first message has made a conversation: from here on this is its page.
function begin(id) {
  conversation = dock.dataset.conversation = id;
  document.getElementById("current").value = id;
  history.replaceState(null, "", `${address}${id}/`);
  sharing.action = `${address}${id}/share`;
  sharing.hidden = false;
  outbox.moveTo(whose, id);
  composer.moveTo(whose, id);
}

function showConnection(state, seconds) {
  dock.dataset.connection = state;
  // A lost connection that is back at once is no news.
  if (state === "trying" && !notice.textContent) return;
  const texts = { waiting: notice.dataset.lost, trying: notice.dataset.trying, offline: notice.dataset.offline };
  const text = state === "signed-out" ? notice.dataset.signedOut : texts[state];
  if (text && !(state === "waiting" && seconds < 1)) show(notice, text.replace("%s", seconds));
  else notice.replaceChildren();
  if (state === "signed-out") offerSignIn();
}

function offerSignIn() {
  notice.append(document.getElementById("sign-in").content.cloneNode(true));
  const link = notice.querySelector("a");
  link.href = `${link.pathname}?next=${encodeURIComponent(location.pathname)}`;
}

function tell(message) {
  show(problem, message);
  problem.append(document.getElementById("dismiss").content.cloneNode(true));
}

function show(place, message) {
  const text = document.createElement("span");
  text.textContent = message;
  place.replaceChildren(text);
}

function interrupt() {
  if (!stop || !conversation || dock.dataset.state !== "busy" || !socket.send({ type: "interrupt", conversation })) return false;
  stop.disabled = true;
}

problem.addEventListener("click", (event) => {
  if (event.target.closest("button")) problem.replaceChildren();
});
stop?.addEventListener("click", interrupt);
onKey("escape", interrupt);
onKey("/", () => composer.focus());
onKey("alt+arrowdown", jump);
new MutationObserver(() => {
  document.title = `${document.getElementById("conversation-title").textContent} · Parley`;
}).observe(document.getElementById("conversation-title"), { childList: true, characterData: true, subtree: true });
outbox.settle();
socket.connect();
focusQuestions();
