import { useLocation } from "preact-iso";

/** The filters of a page, kept in the address: it can be shared, and Back undoes them. */
export function useFilters<Name extends string>(
  defaults: Record<Name, string>,
): [Record<Name, string>, (changes: Partial<Record<Name, string>>) => void] {
  const { path, query, route } = useLocation();
  const filters = { ...defaults };
  for (const name of Object.keys(defaults) as Name[]) {
    const given = query[name];
    if (given !== undefined) filters[name] = given;
  }
  const change = (changes: Partial<Record<Name, string>>) => {
    const next = { ...filters, ...changes };
    const kept = (Object.keys(next) as Name[]).filter((name) => next[name] !== defaults[name]);
    const text = new URLSearchParams(kept.map((name) => [name, next[name]]));
    route(kept.length ? `${path}?${text}` : path, true);
  };
  return [filters, change];
}
