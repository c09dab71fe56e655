// The pictures of docs/report.md: `node scripts/report-images.mjs RUN` photographs the report of a run folder in Debian's
// chromium (or CHROMIUM_PATH). The run of the pictures is `npx cft-native train --keep-rollouts`, seed 0.
import { copyFileSync, mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { chromium } from 'playwright-core';
import { report } from '../dist/index.js';
import { packageRoot } from '../lib/native/addon.mjs';

const { run, path, charts } = await report({ run: resolve(process.argv[2]), charts: true });
const images = join(packageRoot, 'docs', 'images');
mkdirSync(images, { recursive: true });

const looks = [
  { name: 'report-light', colorScheme: 'light', width: 1100, height: 760, at: 'top' },
  { name: 'report-dark', colorScheme: 'dark', width: 1100, height: 820, at: 'responses' },
  { name: 'report-narrow', colorScheme: 'light', width: 390, height: 844, at: 'responses' },
];

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM_PATH ?? '/usr/bin/chromium',
  args: process.getuid() === 0 ? ['--no-sandbox'] : [],
});
for (const { name, colorScheme, width, height, at } of looks) {
  const page = await browser.newPage({ viewport: { width, height }, colorScheme });
  await page.goto(`file://${path}`);
  await page.waitForSelector('.chart .plot');
  if (at === 'responses') {
    const token = page.locator('.response').first().locator('.t.l3').nth(2);
    await token.click();
    const list = page.locator(width > 600 ? '#responses' : '.response >> nth=0');
    await list.evaluate((element) => element.scrollIntoView());
    await page.evaluate(() => scrollBy(0, 72)); // so that the tooltip has room below its token
    const hovered = page.locator('.response').nth(1).locator('.t.l3').first();
    await hovered.hover();
    await page.locator('.tip').waitFor();
  }
  await page.screenshot({ path: join(images, `${name}.png`) });
}
await browser.close();
for (const name of ['accuracy', 'critical-by-kind'])
  copyFileSync(
    charts.find((chart) => chart.endsWith(`${name}.png`)),
    join(images, `${name}.png`),
  );
console.log(`${images}: the report of ${run}`);
