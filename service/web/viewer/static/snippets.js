/** Requests to repeat elsewhere. Names and addresses are quoted: they may hold anything. */

const KEY_VARIABLE = "SOLOV2_API_KEY";

/**
 * @typedef {object} Request
 * @property {string} service the address of `/score`
 * @property {string} [address] of the photo
 * @property {string} name of the photo's file, where it has no address
 * @property {string} note what was scored here, if not the file itself
 * @property {boolean} withKey
 */

/** @param {Request} request */
export function curl(request) {
  const key = request.withKey ? ` -H "Authorization: Bearer $${KEY_VARIABLE}"` : "";
  const call = `curl -s ${quoted(request.service)} -H 'Content-Type: application/json'${key}`;
  if (request.address) return `${call} \\\n  -d ${quoted(JSON.stringify(table(request.address)))}\n`;
  const base64 = `"$(base64 < ${quoted(request.name)} | tr -d '\\n')"`;
  return `${comment(request)}printf '${JSON.stringify(table("%s"))}' ${base64} |\n  ${call} -d @-\n`;
}

/** @param {Request} request */
export function python(request) {
  const headers = ['"Content-Type": "application/json"'];
  if (request.withKey) headers.push(`"Authorization": f"Bearer {os.environ['${KEY_VARIABLE}']}"`);
  const image = request.address
    ? JSON.stringify(request.address)
    : `base64.b64encode(Path(${JSON.stringify(request.name)}).read_bytes()).decode()`;
  const modules = ["json", "urllib.request"];
  if (!request.address) modules.push("base64");
  if (request.withKey) modules.push("os");
  return [
    ...modules.sort().map((name) => `import ${name}`),
    ...(request.address ? [] : ["from pathlib import Path"]),
    "",
    `${comment(request)}image = ${image}`,
    'table = {"input_data": {"columns": ["image"], "data": [image]}}',
    "request = urllib.request.Request(",
    `    ${JSON.stringify(request.service)},`,
    "    json.dumps(table).encode(),",
    `    {${headers.join(", ")}},`,
    ")",
    "with urllib.request.urlopen(request) as response:",
    "    [answer] = json.load(response)",
    'for instance in answer["boxes"]:',
    '    print(instance["label"], round(instance["score"], 2), instance["box"])',
    "",
  ].join("\n");
}

function table(image) {
  return { input_data: { columns: ["image"], data: [image] } };
}

function comment({ note }) {
  return note ? `# ${note}\n` : "";
}

/** For a POSIX shell. */
function quoted(text) {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
