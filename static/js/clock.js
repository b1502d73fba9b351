// Times in the reader's own time zone, and how long something has been waited for.
const language = document.documentElement.lang;
const dock = document.getElementById("thread");
// The server's clock is the measure; ours may be wrong.
const skew = Date.parse(dock.dataset.now) - Date.now();
const inUnits = (count, unit) =>
  new Intl.NumberFormat(language, { style: "unit", unit, unitDisplay: "short" }).format(count);

function tick() {
  for (const element of document.querySelectorAll(".elapsed")) {
    const seconds = Math.floor((Date.now() + skew - Date.parse(element.dataset.since)) / 1000);
    if (!(seconds >= 2)) element.textContent = "";
    else if (seconds < 60) element.textContent = inUnits(seconds, "second");
    else element.textContent = `${inUnits(Math.floor(seconds / 60), "minute")} ${inUnits(seconds % 60, "second")}`;
  }
}

export function localise(root = document) {
  for (const element of root.querySelectorAll("time[datetime]:not([title])")) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const today = at.toDateString() === new Date().toDateString();
    const style = today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" };
    element.textContent = at.toLocaleString(language, style);
    element.title = at.toLocaleString(language, { dateStyle: "full", timeStyle: "medium" });
  }
}

export function update() {
  localise();
  tick();
}

setInterval(tick, 1000);
update();
