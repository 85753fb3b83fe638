import { useState } from "preact/hooks";
import { chooseTheme, chosenTheme, type Theme } from "./theme";

/** A choice of light, dark or the system's colours. */
export function ThemeSwitch() {
  const [theme, setTheme] = useState(chosenTheme());
  return (
    <label class="theme-switch">
      <span class="visually-hidden">Colours</span>
      <select
        class="input input-small"
        value={theme}
        onChange={(event) => {
          const chosen = event.currentTarget.value as Theme;
          chooseTheme(chosen);
          setTheme(chosen);
        }}
      >
        <option value="system">System colours</option>
        <option value="light">Light</option>
        <option value="dark">Dark</option>
      </select>
    </label>
  );
}
