"use strict";
// Shows the newest state of a view in place: one conditional request per interval, while the tab is seen.
// Forms, what they are about, open parts, the focus and selected text stay as they are.
(() => {
  const EVERY_MS = 10000, MOST_MS = 120000, TIMEOUT_MS = 15000;
  const TIMES = 20; // an interval is at least so many answer times: a tab takes 5 % of the server at most
  const MOST_PAIRS = 250000;
  const STILL = "form, [data-basis], [data-kept]";
  const main = document.getElementById("content"), draft = `draft of ${location.pathname}`;
  const bar = element("section", "live"), time = element("span", "soft"), told = element("span", "told");
  const button = element("button", "");
  let tag = "", timer = 0, asked = null, is_over = false, is_held = false;
  let is_paused = sessionStorage.getItem("refreshing") === "paused";

  function element(name, look, text = "") {
    const made = document.createElement(name);
    if (look) made.className = look;
    made.textContent = text;
    return made;
  }

  function say(text) {
    if (told.textContent !== text) told.textContent = text;
  }

  function now() {
    return `${new Date().toISOString().slice(11, 19)} UTC`;
  }

  function ask() {
    clearTimeout(timer);
    if (is_over || is_paused || document.hidden || asked) return;
    const began = performance.now();
    asked = new XMLHttpRequest();
    asked.open("GET", location.pathname + location.search);
    asked.responseType = "document";
    asked.timeout = TIMEOUT_MS;
    asked.setRequestHeader("Accept", "text/html");
    asked.setRequestHeader("Mlplatform-Refresh", "1");
    if (tag) asked.setRequestHeader("If-None-Match", tag);
    asked.onloadend = () => {
      const found = asked;
      asked = null;
      if (!is_paused) take(found);
      const wait_ms = Math.min(MOST_MS, Math.max(EVERY_MS, TIMES * (performance.now() - began)));
      timer = setTimeout(ask, wait_ms);
    };
    asked.send();
  }

  function take(found) {
    const status = found.status, fresh = status === 200 && found.response && found.response.getElementById("content");
    if (status === 304 || fresh) {
      if (fresh) show(found.response, fresh);
      tag = is_held ? "" : found.getResponseHeader("ETag") || "";
      time.textContent = `As of ${now()}`;
      say("");
    } else if (status === 401) {
      is_over = true;
      say("Your session has ended, so this page is not refreshed any more. Load it again to sign in.");
    } else if (status === 404 || status === 409) {
      is_over = true;
      document.querySelectorAll("[data-basis]").forEach(mark_changed);
      say("What this page shows is not there any more. Load it again.");
    } else if (status) {
      say("The server cannot read this page now. It is asked again.");
    } else {
      say("The server cannot be reached. It is asked again.");
    }
  }

  function show(page, fresh) {
    const chosen = getSelection();
    is_held = !chosen.isCollapsed && main.contains(chosen.anchorNode);
    if (is_held) return;
    for (const form of document.querySelectorAll("[data-basis]")) {
      const other = page.getElementById(form.id);
      if (!other || other.dataset.basis !== form.dataset.basis) mark_changed(form);
    }
    children(main, fresh);
  }

  // What a form is about is not exchanged below it: the page says that it has changed.
  function mark_changed(form) {
    if (form.querySelector(".changed")) return;
    const note = element("p", "verdict bad changed", `${form.dataset.changed} `);
    const load = element("button", "", "Show what holds now");
    note.setAttribute("role", "alert");
    load.type = "button";
    load.addEventListener("click", () => {
      const typed = form.querySelector("textarea, input[name=note]");
      if (typed) sessionStorage.setItem(draft, typed.value);
      location.assign(location.pathname + location.search);
    });
    note.append(load);
    const own = form.querySelector("form");
    if (!own) return form.append(note);
    own.before(note);
    own.querySelectorAll("button").forEach((one) => one.setAttribute("aria-disabled", "true"));
    own.addEventListener("submit", (event) => { event.preventDefault(); load.focus(); });
  }

  function key(node) {
    if (node.nodeType !== Node.ELEMENT_NODE) return node.nodeName;
    if (node.id) return `${node.nodeName} ${node.id}`;
    if (node.matches("a")) return `A ${node.getAttribute("href")}`;
    if (node.matches("h2, h3, h4, dt, li")) return `${node.nodeName} ${node.textContent}`;
    const lead = node.querySelector(":scope > th, :scope > summary, :scope > caption");
    return `${node.nodeName} ${node.getAttribute("aria-label") || ""} ${lead ? lead.textContent.replace(/\d/g, node.matches("tr") ? "$&" : "") : ""}`;
  }

  // Pairs of nodes that are the same thing, in order: the longest common subsequence of their keys.
  function pairs(old, fresh) {
    const a = old.map(key), b = fresh.map(key);
    if (a.length * b.length > MOST_PAIRS) return [];
    const most = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
    for (let i = a.length - 1; i >= 0; i--)
      for (let j = b.length - 1; j >= 0; j--)
        most[i][j] = a[i] === b[j] ? most[i + 1][j + 1] + 1 : Math.max(most[i + 1][j], most[i][j + 1]);
    const found = [];
    for (let i = 0, j = 0; i < a.length && j < b.length;) {
      if (a[i] === b[j]) found.push([old[i++], fresh[j++]]);
      else if (most[i + 1][j] >= most[i][j + 1]) i++;
      else j++;
    }
    return found;
  }

  function children(parent, fresh) {
    const old = [...parent.childNodes], found = pairs(old, [...fresh.childNodes]);
    const kept = new Set(found.map(([one]) => one)), partner = new Map(found.map(([one, other]) => [other, one]));
    for (const one of old) {
      if (kept.has(one) || (one.matches && one.matches(STILL))) continue;
      if (one.contains(document.activeElement)) is_held = true; // it goes once the focus has left it
      else one.remove();
    }
    let last = null;
    for (const other of fresh.childNodes) {
      const one = partner.get(other);
      if (one) {
        update(one, other);
        last = one;
      } else if (!(other.matches && other.matches("[data-kept]"))) {
        const made = document.importNode(other, true);
        if (last) last.after(made);
        else parent.prepend(made);
        last = made;
      }
    }
  }

  function update(one, other) {
    if (one.isEqualNode(other)) return;
    if (one.nodeType !== Node.ELEMENT_NODE) {
      one.data = other.data;
    } else if (!one.matches(STILL)) {
      for (const { name } of [...one.attributes])
        if (!other.hasAttribute(name) && name !== "open") one.removeAttribute(name);
      for (const { name, value } of other.attributes)
        if (one.getAttribute(name) !== value) one.setAttribute(name, value);
      children(one, other);
    }
  }

  function toggle() {
    is_paused = !is_paused;
    sessionStorage.setItem("refreshing", is_paused ? "paused" : "");
    name_button();
    ask();
  }

  function name_button() {
    button.textContent = is_paused ? "Go on refreshing" : "Pause refreshing";
  }

  const typed = sessionStorage.getItem(draft), field = main.querySelector("textarea, input[name=note]");
  sessionStorage.removeItem(draft);
  if (typed && field && !field.value) field.value = typed;
  bar.setAttribute("aria-label", "Refreshing");
  told.setAttribute("role", "status");
  time.textContent = `As of ${now()}`;
  button.type = "button";
  button.addEventListener("click", toggle);
  name_button();
  bar.append(told, time, button);
  main.before(bar);
  document.addEventListener("visibilitychange", ask);
  timer = setTimeout(ask, EVERY_MS);
})();
