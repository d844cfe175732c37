// Runs before the first pixel, so that a page never flashes in the other colours.
"use strict";
try {
  const chosen = localStorage.getItem("ccs.theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is refused: the system's colours it is.
}
