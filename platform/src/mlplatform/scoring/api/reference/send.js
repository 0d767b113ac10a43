"use strict";
// Sends the examples of this page to the gateway that showed it. What is answered is shown as text, never as HTML.
const NOW = /\b1767225600000\b/g, GIVEN = /\b0{42}\b/g, MOST = 100000;
const key = document.getElementById("key");
let given = null, served = null;

function part(name, fields, parent) {
  const made = Object.assign(document.createElement(name), fields);
  parent.append(made);
  return made;
}

function sent(text) {
  return text.replace(NOW, String(Date.now())).replace(GIVEN, given ?? "0".repeat(42));
}

async function send(call, text) {
  const { method, path, asks } = call.dataset;
  if (asks === "yes" && !key.value.trim()) return "This call needs a key: fill in the field at the top of the page.";
  if (path.endsWith("/explanation") && !given) return "Send score first: its decision_id is asked for here.";
  if (path.includes("{decision_id}") && !given) return "Send score:async first: its decision_id is asked for here.";
  if (path.includes("{version}") && !served) return "Send the model's metadata first: a version of its list is asked here.";
  const headers = {};
  if (asks === "yes") headers.Authorization = "Bearer " + key.value.trim();
  if (method !== "GET") headers["Content-Type"] = "application/json";
  const body = method === "GET" ? undefined : sent(text);
  const options = { method, headers, body, credentials: "omit", redirect: "error", cache: "no-store" };
  const began = performance.now();
  const named = path.replace("{decision_id}", encodeURIComponent(given ?? "")).replace("{version}", encodeURIComponent(served ?? ""));
  const answer = await fetch(named, options);
  const read = await answer.text();
  const took = Math.round(performance.now() - began);
  return `${answer.status} ${answer.statusText}, ${took} ms\n${shown(read)}`;
}

function shown(text) {
  try {
    const value = JSON.parse(text);
    if (value && typeof value.decision_id === "string") given = value.decision_id;
    if (value && Array.isArray(value.versions)) served = value.versions[0];
    text = JSON.stringify(value, null, 2);
  } catch { /* metrics are no JSON */ }
  return text.length > MOST ? text.slice(0, MOST) + "\n… (cut)" : text;
}

function equip(call, number) {
  const example = call.querySelector(".example");
  let field = null;
  if (example) {
    const id = `body-${number}`;
    part("label", { htmlFor: id, textContent: "Body" }, call);
    const rows = Math.min(example.textContent.split("\n").length, 30);
    field = part("textarea", { id, rows, spellcheck: false, value: example.textContent }, call);
    example.remove();
  }
  const button = part("button", { type: "button", textContent: "Send" }, call);
  button.setAttribute("aria-label", `Send ${call.dataset.method} ${call.dataset.path}`);
  const output = part("pre", { hidden: true, tabIndex: 0 }, call);
  output.setAttribute("role", "status");
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      output.textContent = await send(call, field ? field.value : "");
    } catch (error) {
      output.textContent = `There was no answer: ${error.message}`;
    }
    output.hidden = false;
    button.disabled = false;
  });
}

document.querySelector(".key").hidden = false;
document.querySelectorAll(".call").forEach(equip);
