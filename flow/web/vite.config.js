// Every HTML file of this folder becomes a page; scripts and styles become hashed files in assets/.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { defineConfig } from "vite";

const pages = readdirSync(import.meta.dirname).filter((name) => name.endsWith(".html"));

// The server sends what was compressed here: compressing while it serves would stall its calls.
const gzip = {
  name: "gzip",
  apply: "build",
  writeBundle({ dir }, bundle) {
    for (const name of Object.keys(bundle).filter((each) => /\.(js|css|svg)$/.test(each))) {
      const file = join(dir, name);
      writeFileSync(`${file}.gz`, gzipSync(readFileSync(file), { level: 9 }));
    }
  },
};

export default defineConfig({
  appType: "mpa",
  plugins: [gzip],
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  resolve: {
    alias: { "@daily-co/daily-js": join(import.meta.dirname, "src/talk/no_daily.ts") },
  },
  build: {
    outDir: "static",
    // The first versions of each browser with light-dark() in CSS.
    target: ["chrome123", "edge123", "firefox120", "safari17.5"],
    // Nothing inline: the pages' content security policy forbids it.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: {
      input: Object.fromEntries(
        pages.map((page) => [page.replace(".html", ""), join(import.meta.dirname, page)]),
      ),
    },
  },
  // `npx vite` beside `make dev`: pages with reloading, the API from there.
  server: { proxy: { "/api": "http://127.0.0.1:8000" } },
});
