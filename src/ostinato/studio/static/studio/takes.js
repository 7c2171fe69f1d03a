// The list of what was made: recipes, kept in this browser. Sound stays on the server for as long as it does.

const KEY = "ostinato-takes", MOST = 100;

export function load() {
  try {
    const takes = JSON.parse(localStorage.getItem(KEY) ?? "[]");
    return Array.isArray(takes) ? takes.filter((take) => take?.recipe?.turns?.length) : [];
  } catch {
    return []; // storage that is off, or was written by something else
  }
}

export function save(takes) {
  let kept = takes.slice(0, MOST);
  while (kept.length) {
    try {
      localStorage.setItem(KEY, JSON.stringify(kept));
      return;
    } catch {
      kept = kept.slice(0, Math.floor(kept.length / 2)); // the browser's room is full: the oldest go
    }
  }
  try {
    localStorage.removeItem(KEY);
  } catch {
    // storage is off: the list lasts as long as the page
  }
}

// Tell `changed` the list whenever another tab changes it; else the last tab to save would drop what the others made.
export function watch(changed) {
  addEventListener("storage", ({ key }) => key === KEY && changed(load()));
}

export function about({ recipe, rate }) {
  const [first] = recipe.turns, length = recipe.samples / rate;
  const turns = recipe.turns.length > 1 ? `, ${recipe.turns.length - 1} change${recipe.turns.length > 2 ? "s" : ""} of course` : "";
  return `${clock(length)}, seed ${first.seed}, ${recipe.model}${turns}`;
}

export function clock(seconds) {
  const whole = Math.floor(seconds), pad = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${pad(m)}:${pad(s)}` : `${m}:${pad(s)}`;
}

export function words(recipe) {
  return recipe.turns.map((turn) => turn.prompt).filter((prompt, i, all) => prompt !== all[i - 1]).join(" → ");
}
