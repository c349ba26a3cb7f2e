"use strict";
(() => {
  const form = document.getElementById("inspect");
  // Not form.dataset: that is the form's field of this name.
  const text = Object.fromEntries(
    ["sending", "checking", "waiting", "failed", "drop"].map((name) => [name, form.getAttribute(`data-${name}`)]),
  );
  const chooser = document.getElementById("file");
  const area = form.closest("section");
  const answers = document.getElementById("answers");
  const list = document.getElementById("answer-list");
  const status = document.getElementById("inspect-status");
  const waiting = [];
  let busy = false;

  function element(name, content, parent) {
    const made = document.createElement(name);
    made.textContent = content;
    parent.append(made);
    return made;
  }

  /** Show a file in the list of results, with the progress of its check. */
  function announce(file) {
    const article = document.createElement("article");
    article.className = "inspection";
    article.setAttribute("aria-label", file.name);
    element("bdi", file.name, element("h3", "", article));
    const note = element("p", text.waiting, article);
    const bar = element("progress", "", article);
    bar.setAttribute("aria-label", file.name);
    bar.max = 1;
    bar.value = 0;
    answers.hidden = false;
    list.prepend(article);
    return { article, note, bar };
  }

  function say(file, words) {
    status.textContent = `${file.name}: ${words}`;
  }

  /** Put the server's answer in the place of the progress. */
  function show(item, file, page) {
    const fresh = new DOMParser().parseFromString(page, "text/html");
    const answer = fresh.querySelector("article.inspection");
    if (!answer) {
      fail(item, file);
      return;
    }
    const title = answer.querySelector("h3");
    if (!title) {
      const heading = document.createElement("h3");
      element("bdi", file.name, heading);
      answer.prepend(heading);
      answer.setAttribute("aria-label", file.name);
    }
    item.article.replaceWith(answer);
    say(file, answer.querySelector(".state").textContent);
  }

  function fail(item, file) {
    item.bar.remove();
    item.note.textContent = text.failed;
    say(file, text.failed);
  }

  function send(file, fields) {
    const item = announce(file);
    waiting.push(() => {
      const body = new FormData();
      for (const [name, value] of fields) body.append(name, value);
      // The last one: emitterd reads the others first.
      body.append("file", file, file.name);
      const request = new XMLHttpRequest();
      request.upload.addEventListener("progress", (event) => {
        if (event.lengthComputable) item.bar.value = event.loaded / event.total;
      });
      request.upload.addEventListener("load", () => {
        item.bar.removeAttribute("value");
        item.note.textContent = text.checking;
        say(file, text.checking);
      });
      request.addEventListener("load", () => show(item, file, request.responseText));
      request.addEventListener("error", () => fail(item, file));
      request.addEventListener("loadend", next);
      request.open("POST", "inspect?fragment");
      request.send(body);
      item.note.textContent = text.sending;
      say(file, text.sending);
    });
    if (!busy) next();
  }

  /** Check the next file: emitterd checks one at a time. */
  function next() {
    const start = waiting.shift();
    busy = start !== undefined;
    if (busy) start();
  }

  function sendAll(files) {
    const fields = [...new FormData(form)].filter(([name]) => name !== "file");
    for (const file of files) send(file, fields);
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sendAll([...chooser.files]);
    // The same file may be chosen again after it was corrected.
    chooser.value = "";
  });

  const withFiles = (event) => event.dataTransfer.types.includes("Files");
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      if (!withFiles(event)) return;
      event.preventDefault();
      area.classList.add("target");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) area.classList.remove("target");
  });
  document.addEventListener("drop", (event) => {
    if (!withFiles(event)) return;
    event.preventDefault();
    area.classList.remove("target");
    sendAll([...event.dataTransfer.files]);
  });

  chooser.multiple = true;
  const hint = document.getElementById("drop-hint");
  hint.textContent = text.drop;
  hint.hidden = false;
})();
