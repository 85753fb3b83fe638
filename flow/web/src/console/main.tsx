import { render } from "preact";
import { useState } from "preact/hooks";
import "../shared/styles.css";
import { storedKey } from "../shared/stored_key";
import { applyTheme } from "../shared/theme";
import "./console.css";
import { SignIn } from "./sign_in";

function Console() {
  const [key, setKey] = useState(storedKey.read());
  if (key === null) {
    return (
      <SignIn
        why={null}
        onKey={(given) => {
          storedKey.keep(given);
          setKey(given);
        }}
      />
    );
  }
  return <main>Signed in.</main>;
}

applyTheme();
const root = document.getElementById("app");
if (root) render(<Console />, root);
