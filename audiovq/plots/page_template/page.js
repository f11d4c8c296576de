"use strict";
(() => {
  const players = [...document.querySelectorAll("audio")];
  const shortcuts = document.getElementById("shortcuts");
  const status = document.getElementById("status");
  let current = null;

  const versionOf = (element) => element.closest(".version");
  const siblings = (audio) => [...audio.closest("section").querySelectorAll("audio")];
  const labelOf = (audio) => versionOf(audio).querySelector("h3").textContent;

  function markCurrent(audio) {
    if (current !== null) versionOf(current).classList.remove("current");
    current = audio;
    versionOf(audio).classList.add("current");
  }

  function moveHead(audio) {
    const length = audio.duration || Number(audio.dataset.seconds);
    const head = versionOf(audio).querySelector(".head");
    head.style.left = (100 * Math.min(1, audio.currentTime / length)) + "%";
  }

  function followHead() {
    if (current === null || current.paused) return;
    moveHead(current);
    requestAnimationFrame(followHead);
  }

  function startAt(audio, seconds) {
    const start = () => {
      audio.currentTime = Math.min(seconds, audio.duration);
      audio.play().catch(() => {});
    };
    if (audio.readyState > 0) start();
    else {
      audio.addEventListener("loadedmetadata", start, { once: true });
      audio.load();
    }
  }

  // To another version of the same recording at the same moment; from the beginning otherwise.
  function switchTo(audio) {
    const old = current;
    const same = old !== null && old !== audio && siblings(audio).includes(old);
    const seconds = same && !old.ended ? old.currentTime : 0;
    if (old === audio && !audio.paused) return;
    if (old !== null) old.pause();
    markCurrent(audio);
    startAt(audio, old === audio && !audio.ended ? audio.currentTime : seconds);
    status.textContent = labelOf(audio);
    versionOf(audio).scrollIntoView({ block: "nearest" });
  }

  // The recording that has the focus, that was heard last, or that is on the screen.
  function inReach() {
    const focused = document.activeElement.closest("section");
    if (focused !== null) return [...focused.querySelectorAll("audio")];
    if (current !== null) return siblings(current);
    const shown = players.find((audio) => audio.getBoundingClientRect().bottom > 0);
    return shown === undefined ? [] : siblings(shown);
  }

  function chosenBy(key, audios) {
    const at = audios.indexOf(current);
    if (/^[1-9]$/.test(key)) return audios[Number(key) - 1];
    if (key === ",") return audios[Math.max(0, at - 1)];
    if (key === ".") return audios[Math.min(audios.length - 1, at + 1)];
    return undefined;
  }

  document.addEventListener("keydown", (event) => {
    if (!shortcuts.checked || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "p" && current !== null) {
      event.preventDefault();
      if (current.paused) current.play().catch(() => {});
      else current.pause();
      return;
    }
    const audio = chosenBy(event.key, inReach());
    if (audio === undefined) return;
    event.preventDefault();
    switchTo(audio);
  });

  for (const audio of players) {
    const version = versionOf(audio);
    audio.addEventListener("play", () => {
      for (const other of players) if (other !== audio) other.pause();
      markCurrent(audio);
      followHead();
    });
    audio.addEventListener("timeupdate", () => moveHead(audio));
    audio.addEventListener("seeked", () => moveHead(audio));
    audio.addEventListener("error", () => {
      const problem = document.createElement("p");
      problem.className = "problem";
      problem.textContent = "This browser cannot play it.";
      audio.after(problem);
    });
    version.querySelector(".switch").addEventListener("click", () => switchTo(audio));
    version.querySelector("img").addEventListener("click", (event) => {
      const box = event.target.getBoundingClientRect();
      const length = audio.duration || Number(audio.dataset.seconds);
      if (current !== null && current !== audio) current.pause();
      markCurrent(audio);
      startAt(audio, length * (event.clientX - box.left) / box.width);
    });
  }
})();
