/** A real browser for the report: Debian's chromium, or what CHROMIUM_PATH names. */
import { existsSync } from 'node:fs';
import { type Browser, chromium, type Page } from 'playwright-core';

const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'];
const places = process.env.CHROMIUM_PATH
  ? [process.env.CHROMIUM_PATH]
  : names.map((name) => `/usr/bin/${name}`);

export const browserPath = places.find((path) => existsSync(path));

export const noBrowser =
  'no chromium found: apt-get install chromium, or name one in CHROMIUM_PATH; the test in a browser is skipped';

/** Root has no sandbox to run in; the pages are our own. */
export const launchBrowser = (): Promise<Browser> =>
  chromium.launch({ executablePath: browserPath!, args: process.getuid?.() === 0 ? ['--no-sandbox'] : [] });

/** Everything that a page complains about from here on: console, exceptions, requests. */
export function complaints(page: Page): string[] {
  const found: string[] = [];
  page.on('console', (message) => {
    if (message.type() === 'error' || message.type() === 'warning') found.push(message.text());
  });
  page.on('pageerror', (error) => found.push(error.message));
  page.on('request', (request) => {
    if (!/^(file|data|blob):/.test(request.url())) found.push(`request ${request.url()}`);
  });
  return found;
}
