/** Files use snake_case, TypeScript camelCase: whole values from one to the other. */

export type Json = string | number | boolean | null | Json[] | { [name: string]: Json };

function renamed(value: Json, rename: (name: string) => string): Json {
  if (Array.isArray(value)) return value.map((item) => renamed(item, rename));
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]) => [rename(name), renamed(inner, rename)]),
  );
}

/** A plain value as it goes into a file; undefined members are left out. */
export const forFile = (value: unknown): Json =>
  renamed(JSON.parse(JSON.stringify(value)) as Json, (name) =>
    name.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`),
  );

/** The reverse, for a value whose type the caller knows from who wrote it. */
export const fromFile = (value: Json): unknown =>
  renamed(value, (name) => name.replace(/_([a-z0-9])/g, (_, c: string) => c.toUpperCase()));
