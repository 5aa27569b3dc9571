// The look of the page: light, dark, or the system's. A plain script, so that it is set before anything is drawn.
(() => {
  const names = { auto: "Auto", light: "Light", dark: "Dark" };
  const order = Object.keys(names);
  const kept = () => {
    try {
      return localStorage.getItem("theme");
    } catch {
      return null; // a browser without storage
    }
  };
  const look = { now: names[kept()] ? kept() : "auto" };

  function show() {
    document.documentElement.dataset.theme = look.now;
    const button = document.getElementById("theme");
    if (!button) return;
    button.textContent = names[look.now];
    button.setAttribute("aria-label", `Look: ${names[look.now]}. Press to change`);
  }

  function next() {
    look.now = order[(order.indexOf(look.now) + 1) % order.length];
    try {
      localStorage.setItem("theme", look.now);
    } catch {
      // it holds until the page is closed
    }
    show();
  }

  show();
  document.addEventListener("DOMContentLoaded", () => {
    show();
    document.getElementById("theme").addEventListener("click", next);
  });
})();
