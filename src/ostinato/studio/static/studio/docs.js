// openapi.json as a page.

const paths = document.getElementById("paths");
const element = (name, text = "", ...inside) => {
  const made = document.createElement(name);
  made.textContent = text;
  made.append(...inside);
  return made;
};
const spec = await (await fetch("v1/openapi.json")).json();
paths.append(element("p", spec.info.description));
const example = `curl -s ${location.origin}/v1/audio/generations -H 'content-type: application/json' \\\n  -d '{"prompt": "A slow Bach chorale played on church organ", "seconds": 10, "format": "flac"}' -o out.flac`;
paths.append(element("pre", example), element("pre", `curl -s "${location.origin}/v1/audio/stream?prompt=solo+piano" | aplay`));
for (const [path, methods] of Object.entries(spec.paths)) {
  for (const [method, { summary, parameters = [], requestBody }] of Object.entries(methods)) {
    const fields = parameters.map(({ name, schema, required }) => [name, schema, required]);
    const schema = requestBody?.content["application/json"]?.schema;
    for (const [name, value] of Object.entries(schema?.properties ?? {})) fields.push([name, value, schema.required?.includes(name)]);
    const rows = fields.map(([name, { type, description = "", default: usual, enum: choices }, required]) => {
      const rest = [choices?.join(", "), usual === undefined ? "" : `default ${usual}`, required ? "required" : ""].filter(Boolean).join("; ");
      return element("li", "", element("code", name), ` ${type}${rest ? ` (${rest})` : ""}${description ? `: ${description}` : ""}`);
    });
    paths.append(element("section", "", element("h2", `${method.toUpperCase()} ${path}`), element("p", summary), element("ul", "", ...rows)));
  }
}
paths.append(
  element("section", "", element("h2", "WebSocket /v1/play"), element("p", "Send {\"type\": \"start\", ...} with the fields above. Samples come as 16-bit little-endian bytes; {\"type\": \"heard\", \"heard\": samples} allows more. \"pause\", \"resume\", \"steer\" (prompt), \"fork\" (seed) and \"stop\" do what they say.")),
);
