const NAME = "flow.api_key";

/** The API key, kept for this tab: no other tab sees it, and it goes with the tab. */
export const storedKey = {
  read: (): string | null => sessionStorage.getItem(NAME),
  keep: (key: string): void => sessionStorage.setItem(NAME, key),
  forget: (): void => sessionStorage.removeItem(NAME),
};
