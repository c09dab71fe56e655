/** What `npm run build` made for the browser: the viewer's script and style, each one file. */
import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { CftError } from '../errors.js';

/** Lies at the same place seen from lib/report and from dist/report. */
const folder = new URL('../../dist/report/', import.meta.url);

export const assetPath = (name: string): string => fileURLToPath(new URL(name, folder));

/** @throws CftError ERR_CFT_NOT_BUILT where it was not built. */
export function checkAsset(name: string): string {
  const path = assetPath(name);
  if (existsSync(path)) return path;
  throw new CftError('ERR_CFT_NOT_BUILT', `${path}: expected the viewer, found none; run npm run build`);
}

const cache = new Map<string, string>();

export function readAsset(name: string): string {
  let text = cache.get(name);
  if (text === undefined) {
    text = readFileSync(checkAsset(name), 'utf8');
    cache.set(name, text);
  }
  return text;
}
