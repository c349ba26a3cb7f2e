"use strict";
(() => {
  const PAUSE_MS = 2000;
  const LONGEST_PAUSE_MS = 30000;
  const PATIENCE_MS = 10000;

  const live = document.getElementById("live");
  const freshness = document.getElementById("freshness");
  const clock = { hour: "2-digit", minute: "2-digit" };
  // As India writes them, also in English.
  const locale = `${document.documentElement.lang}-IN`;
  const ofToday = new Intl.DateTimeFormat(locale, clock);
  const ofAnyDay = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short", ...clock });

  /** Write an instant in the reader's own time zone, without the date if it is today's. */
  function written(instant) {
    const today = instant.toDateString() === new Date().toDateString();
    return (today ? ofToday : ofAnyDay).format(instant);
  }

  function localise(root) {
    for (const time of root.querySelectorAll("time[datetime]")) {
      time.textContent = written(new Date(time.dateTime));
    }
  }

  function same(one, other) {
    return one.nodeName === other.nodeName && (one.id || "") === (other.id || "");
  }

  /** Make a node like a fresh one and keep what is alike: focus, scroll, selection. */
  function morph(node, fresh) {
    if (node.nodeType !== Node.ELEMENT_NODE) {
      if (node.data !== fresh.data) node.data = fresh.data;
      return;
    }
    for (const { name } of [...node.attributes]) {
      // What the reader has opened stays open.
      if (!fresh.hasAttribute(name) && name !== "open") node.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (node.getAttribute(name) !== value) node.setAttribute(name, value);
    }
    let next = node.firstChild;
    for (const child of [...fresh.childNodes]) {
      let twin = next;
      while (twin && !same(twin, child)) twin = twin.nextSibling;
      if (!twin) {
        node.insertBefore(child, next);
        continue;
      }
      // A node that is moved loses the focus: those before it go instead.
      while (next !== twin) {
        const gone = next;
        next = next.nextSibling;
        gone.remove();
      }
      next = twin.nextSibling;
      morph(twin, child);
    }
    while (next) {
      const gone = next;
      next = next.nextSibling;
      gone.remove();
    }
  }

  function show(text, etag) {
    const fresh = new DOMParser().parseFromString(text, "text/html");
    localise(fresh);
    const focused = document.activeElement;
    const home = focused && focused.closest("section");
    const wrap = live.cloneNode(false);
    wrap.append(...fresh.body.childNodes);
    morph(live, wrap);
    live.dataset.etag = etag;
    // The row that had the focus is gone: its section has it, not the page's top.
    if (home && !focused.isConnected && home.isConnected) home.focus({ preventScroll: true });
    document.title = `${document.getElementById("headline").textContent} – emitterd`;
  }

  function say(text, stale) {
    if (freshness.textContent !== text) freshness.textContent = text;
    freshness.classList.toggle("stale", stale);
  }

  let pause = PAUSE_MS;
  let timer = 0;
  let seen = new Date();

  async function look() {
    try {
      const answer = await fetch("overview", {
        headers: { "If-None-Match": live.dataset.etag },
        signal: AbortSignal.timeout(PATIENCE_MS),
      });
      if (answer.status === 200) {
        show(await answer.text(), answer.headers.get("ETag"));
      } else if (answer.status !== 304) {
        throw new Error(`status ${answer.status}`);
      }
      seen = new Date();
      pause = PAUSE_MS;
      say(freshness.dataset.fresh, false);
    } catch {
      pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
      say(freshness.dataset.stale.replace("{time}", written(seen)), true);
    }
    plan();
  }

  function plan() {
    clearTimeout(timer);
    if (!document.hidden) timer = setTimeout(look, pause);
  }

  localise(document);
  const zone = new Intl.DateTimeFormat().resolvedOptions().timeZone;
  const footnote = document.getElementById("zone");
  footnote.textContent = footnote.dataset.zone.replace("{zone}", zone);
  addEventListener("beforeprint", () => {
    freshness.textContent = freshness.dataset.printed.replace("{time}", seen.toLocaleString(locale));
  });
  if (live) {
    document.addEventListener("visibilitychange", () => {
      pause = PAUSE_MS;
      clearTimeout(timer);
      if (!document.hidden) look();
    });
    plan();
  }
})();
