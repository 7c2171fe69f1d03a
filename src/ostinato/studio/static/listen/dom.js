// Elements from plain values. Text is only ever set as text, so that no prompt can bring markup or a script.

export function el(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.flat(Infinity).filter((child) => child != null));
  return element;
}

export function icon(path) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
  shape.setAttribute("d", path);
  svg.append(shape);
  return svg;
}

// One choice of several, as native radio buttons: arrow keys and screen readers work as everywhere.
export function choice({ legend, name, options, value, disabled, describedby, onpick }) {
  return el("fieldset", { class: "choice", disabled, "aria-describedby": describedby },
    el("legend", {}, legend),
    el("div", { class: "options" }, options.map((option) =>
      el("label", {},
        el("input", {
          type: "radio", name, value: option.value, checked: option.value === value,
          "aria-label": option.said, onchange: () => onpick(option.value),
        }),
        el("span", { "aria-hidden": option.said ? "true" : null }, option.label)))));
}
