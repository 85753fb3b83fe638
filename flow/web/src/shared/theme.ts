import { useEffect, useState } from "preact/hooks";

export type Theme = "system" | "light" | "dark";

const NAME = "flow.theme";
const CHANGED = "flow-theme";
const darkness = matchMedia("(prefers-color-scheme: dark)");

export function chosenTheme(): Theme {
  const name = localStorage.getItem(NAME);
  return name === "light" || name === "dark" ? name : "system";
}

/** Show the page in a theme, and remember it; `system` follows the system's. */
export function chooseTheme(theme: Theme): void {
  if (theme === "system") localStorage.removeItem(NAME);
  else localStorage.setItem(NAME, theme);
  applyTheme();
}

/** To be called before a page renders: the style sheet's colours follow the attribute. */
export function applyTheme(): void {
  const theme = chosenTheme();
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  dispatchEvent(new Event(CHANGED));
}

/** A number that changes with the colours shown, for what is drawn with them (charts). */
export function useThemeVersion(): number {
  const [version, setVersion] = useState(0);
  useEffect(() => {
    const changed = () => setVersion((before) => before + 1);
    darkness.addEventListener("change", changed);
    addEventListener(CHANGED, changed);
    return () => {
      darkness.removeEventListener("change", changed);
      removeEventListener(CHANGED, changed);
    };
  }, []);
  return version;
}
