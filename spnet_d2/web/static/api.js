// The server's functions. Errors carry the server's sentence.

async function answer(response) {
  if (response.ok) return response;
  let sentence = `The server answered ${response.status}.`;
  try {
    const { detail } = await response.json();
    if (typeof detail === "string") sentence = detail;
    else if (Array.isArray(detail)) sentence = detail.map((d) => `${d.loc.at(-1)}: ${d.msg}`).join("; ");
  } catch {
    // No JSON: the status has to do.
  }
  throw new Error(sentence);
}

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The server can't be reached. Is it still running?");
  }
  return answer(response);
}

export const url = (path, parameters = {}) => {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== null && value !== undefined && value !== "") query.append(name, value);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
};

export const get = async (path, parameters, signal) =>
  (await call(url(path, parameters), { signal })).json();

export async function send(method, path, body, signal) {
  const options = { method, signal };
  if (body !== undefined) {
    options.headers = { "content-type": "application/json" };
    options.body = JSON.stringify(body);
  }
  const response = await call(path, options);
  return response.status === 204 ? null : response.json();
}

export const upload = async (file) =>
  (await call("/api/uploads", { method: "POST", headers: { "content-type": "application/octet-stream" }, body: file })).json();

export async function download(path, name) {
  const response = await call(path, { method: "POST" });
  const address = URL.createObjectURL(await response.blob());
  const link = Object.assign(document.createElement("a"), { href: address, download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

export const thumbnail = (person) => `/api/people/${person}/thumbnail`;
