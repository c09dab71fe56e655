/** The page in a real browser: it works from disk, by mouse and by keyboard, and hostile text in it stays text. */
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { Page } from 'playwright-core';
import { report } from '../../lib/index.js';
import { browserPath, complaints, launchBrowser, noBrowser } from '../helpers/browser.js';
import { attack, makeRecord, makeRun, responses } from '../helpers/report-run.js';

const check = browserPath === undefined ? test.skip : test;
if (browserPath === undefined) console.error(noBrowser);

/** Opens the report of a run made by hand; `done` fails the test for anything that the page complained about. */
async function open(
  t: ExecutionContext,
  {
    viewport = { width: 1200, height: 900 },
    colorScheme = 'light' as 'light' | 'dark',
    made = responses,
  } = {},
): Promise<{ page: Page; done: () => Promise<void> }> {
  t.timeout(120_000);
  const { path } = await report({ run: makeRun(t, made) });
  const browser = await launchBrowser();
  t.teardown(() => browser.close());
  const page = await browser.newPage({ viewport, colorScheme });
  const found = complaints(page);
  await page.goto(`file://${path}`);
  await page.waitForSelector('.response');
  await page.waitForSelector('.chart .plot');
  return {
    page,
    done: async () => {
      t.deepEqual(found, []);
      t.is(await page.evaluate('window.attacked'), undefined);
      await browser.close();
    },
  };
}

const texts = (page: Page, selector: string): Promise<string[]> => page.locator(selector).allTextContents();

check('it opens from disk without a complaint: head line, charts, sites, costs, responses', async (t) => {
  const { page, done } = await open(t);
  t.is(await page.title(), 'cft: 60.0 % → 70.0 % (95 % interval +5.0 to +15.0 points, better)');
  t.deepEqual(await texts(page, 'h2'), [
    'What was gained',
    'Training',
    'Where critical tokens sit',
    'Responses and their critical tokens',
    'Keys',
    'What it cost',
    'Options',
  ]);
  t.deepEqual(await texts(page, 'figcaption'), [
    'Accuracy on test, with 95 % intervals',
    'Loss of the trained tokens',
    'Loss of critical and other tokens',
    'Entropy at critical and other tokens',
    'Validation: accuracy',
    'Learning rate',
    'Gradient norm before clipping',
    'Critical tokens by place in the response',
    'Critical tokens by kind of token',
    'Wall time by stage',
  ]);
  t.is(await page.locator('figure .plot').count(), 10);
  t.is(await page.locator('.response').count(), 4);
  t.regex((await texts(page, '#gains table'))[0]!, /after sft65\.0 %61\.0 to 69\.0/);
  await done();
});

check('hostile text in questions, answers, responses, options and alternatives stays text', async (t) => {
  const { page, done } = await open(t);
  const card = page.locator('.response').nth(2);
  t.is(await card.locator('.question').textContent(), attack);
  t.is(await card.locator('.tokens').textContent(), `${attack} 3`);
  t.is(await card.locator('.gold').textContent(), `answer ${attack}`);
  t.is(await page.locator('img').count(), 0);
  t.is(await page.locator('script').count(), 2);
  await card.locator('.t.l3').first().click();
  t.true((await card.locator('.continuation').first().textContent())!.endsWith(attack));
  await done();
});

check(
  'hover shows the alternatives with probabilities and verdicts, a click what would have been',
  async (t) => {
    const { page, done } = await open(t);
    const card = page.locator('.response').first();
    const token = card.locator('.t.l3').first();
    t.false(await page.locator('.tip').isVisible());
    await token.hover();
    const tip = page.locator('.tip');
    t.true(await tip.isVisible());
    t.regex((await tip.textContent())!, /critical: every tried alternative fails/);
    const rows = await tip.locator('tbody tr').allTextContents();
    t.is(rows.length, 2);
    t.regex(rows[0]!, /^2.+13\.5 %✗ incorrect42$/s);
    t.regex(rows[1]!, /^3.+4\.98 %… truncated–$/s);
    await page.mouse.move(0, 0);
    t.false(await tip.isVisible());
    await token.click();
    const panel = card.locator('.counterfactual');
    t.true(await panel.isVisible());
    t.is(await panel.locator('.branch').count(), 2);
    t.regex((await panel.textContent())!, /answer 42, expected 19.*and then 19/s);
    await token.click();
    t.false(await panel.isVisible());
    await done();
  },
);

check('search, filters, order and frequent tokens choose the responses', async (t) => {
  const { page, done } = await open(t);
  const ids = (): Promise<string[]> => texts(page, '.response .id');
  await page.getByLabel('Search').fill('APPLES tom');
  t.deepEqual(await ids(), ['plain']);
  t.is(await page.locator('output').textContent(), '1 of 4');
  await page.getByLabel('Search').fill('nothing has this');
  t.deepEqual(await ids(), []);
  await page.getByLabel('Search').fill('');
  await page.getByLabel('Show').selectOption('math');
  t.deepEqual(await ids(), ['math']);
  await page.getByLabel('Show').selectOption('all');
  await page.getByLabel('Order').selectOption('long');
  t.is((await ids())[0], responses[2]!.id);
  await page.getByLabel('Order').selectOption('data');
  await page.locator('.token-filter').first().click();
  const chosen = await ids();
  t.true(chosen.length > 0 && chosen.length < 4);
  t.true((await page.locator('.t.hit').count()) > 0);
  await page.locator('.chip').click();
  t.is((await ids()).length, 4);
  await done();
});

check('everything is to be had by keyboard', async (t) => {
  const { page, done } = await open(t);
  const focused = (): Promise<string | null> =>
    page.evaluate('document.activeElement.dataset.i ?? document.activeElement.tagName');
  const inCard = (): Promise<string> =>
    page.evaluate(`document.activeElement.closest('.response').querySelector('.id').textContent`);
  await page.keyboard.press('/');
  t.is(await focused(), 'INPUT');
  await page.keyboard.type('j'); // typed, not obeyed
  t.is(await page.getByLabel('Search').inputValue(), 'j');
  await page.getByLabel('Search').fill('');
  await page.keyboard.press('Escape');
  await page.keyboard.press('j');
  t.is(await focused(), '0');
  t.is(await inCard(), 'plain');
  t.true(await page.locator('.tip').isVisible());
  await page.keyboard.press('ArrowRight');
  t.is(await focused(), '1');
  await page.keyboard.press('n');
  t.is(await focused(), '5');
  await page.keyboard.press('p');
  t.is(await focused(), '0');
  await page.keyboard.press('End');
  await page.keyboard.press('Home');
  t.is(await focused(), '0');
  t.regex(
    (await page.locator(':focus').getAttribute('aria-label'))!,
    /critical: every tried alternative fails/,
  );
  await page.keyboard.press('Enter');
  t.true(await page.locator('.counterfactual').first().isVisible());
  await page.keyboard.press('Escape');
  t.false(await page.locator('.counterfactual').first().isVisible());
  await page.keyboard.press('j');
  t.is(await inCard(), 'math');
  await page.keyboard.press('k');
  t.is(await inCard(), 'plain');
  await page.keyboard.press('?');
  t.true(await page.locator('dialog').isVisible());
  await page.keyboard.press('Escape');
  t.false(await page.locator('dialog').isVisible());
  await done();
});

check('formulas are typeset, with their source as their name; money is none', async (t) => {
  const { page, done } = await open(t);
  const card = page.locator('.response').nth(1);
  t.deepEqual(
    await card
      .locator('.question .math')
      .evaluateAll((all) => all.map((one) => one.getAttribute('aria-label'))),
    ['\\frac{1}{2}+\\sqrt{4}'],
  );
  t.true((await card.locator('.question .katex .mfrac').count()) > 0);
  await card.locator('.typeset summary').click();
  t.is(await card.locator('.typeset .math').count(), 2);
  t.regex((await card.locator('.typeset p').textContent())!, /It costs \$5 and \$6\./);
  await done();
});

check('formulas cannot link, load or take long', async (t) => {
  const questions = [
    '$\\href{javascript:window.attacked=1}{x}$',
    '$\\includegraphics{http://attacker.example/a.png}$ $\\htmlStyle{color:red}{x}$',
    `$\\def\\a{\\a\\a}\\a$ $${'{'.repeat(900)}$ ${'$'.repeat(3000)} ${'\\boxed{'.repeat(500)}`,
  ];
  const made = questions.map((question, i) => ({ ...responses[0]!, id: `${i}`, question }));
  const start = performance.now();
  const { page, done } = await open(t, { made });
  t.is(await page.locator('.response').count(), 3);
  t.is(await page.locator('.response a, .response img').count(), 0);
  t.log(`${Math.round(performance.now() - start)} ms`);
  await done();
});

check(
  'colours follow the system, nothing is wider than a telephone, and print shows all responses',
  async (t) => {
    const many = Array.from({ length: 50 }, (_, i) => ({ ...responses[0]!, id: `${i}` }));
    const { page, done } = await open(t, {
      viewport: { width: 360, height: 700 },
      colorScheme: 'dark',
      made: many,
    });
    t.is(await page.locator('.response').count(), 20, 'the others come when they are scrolled to');
    const background = (): Promise<string> =>
      page.evaluate('getComputedStyle(document.body).backgroundColor');
    t.is(await background(), 'rgb(22, 23, 26)');
    t.is(await page.evaluate('document.documentElement.scrollWidth'), 360);
    await page.emulateMedia({ media: 'print' });
    t.is(await background(), 'rgb(255, 255, 255)');
    t.false(await page.locator('.toolbar').isVisible());
    await page.pdf();
    t.is(await page.locator('.response').count(), 50);
    await done();
  },
);

check('a damaged page says so instead of staying empty', async (t) => {
  t.timeout(120_000);
  const folder = makeRun(t);
  const { path } = await report({ run: folder });
  const broken = join(folder, 'broken.html');
  writeFileSync(broken, readFileSync(path, 'utf8').replace(/(id="data">).{100}/, '$1'));
  const browser = await launchBrowser();
  t.teardown(() => browser.close());
  const page = await browser.newPage();
  await page.goto(`file://${broken}`);
  await page.waitForSelector('.status');
  t.regex((await page.locator('.status').textContent())!, /cannot be drawn/);
});

check('a page that is served follows its run, and keeps what was searched and opened', async (t) => {
  t.timeout(120_000);
  const run = makeRun(t);
  const controller = new AbortController();
  t.teardown(() => controller.abort());
  let ended: Promise<unknown> = Promise.resolve();
  const url = await new Promise<string>((resolve) => {
    ended = report({ run, watch: true, signal: controller.signal, onListening: resolve });
    ended.catch(() => {});
  });
  const browser = await launchBrowser();
  t.teardown(() => browser.close());
  const page = await browser.newPage();
  const found = complaints(page);
  const listening = page.waitForResponse(`${url}events`);
  await page.goto(url);
  await page.waitForSelector('.response');
  await listening;
  await page.getByLabel('Search').fill('tom');
  await page.locator('.tokens .t.l3').first().click();
  writeFileSync(join(run, 'eval/after/summary.json'), readFileSync(join(run, 'eval/before/summary.json')));
  await page.locator('h1', { hasText: '60.0 % → 60.0 %' }).waitFor();
  t.is(
    await page.locator('h1').textContent(),
    'cft: 60.0 % → 60.0 % (95 % interval +5.0 to +15.0 points, better)',
  );
  t.is(await page.locator('.response').count(), 1);
  t.true(await page.locator('.counterfactual').isVisible());
  t.is(await page.locator('#gains').count(), 1);
  const more = makeRecord({ ...responses[0]!, id: 'more' });
  appendFileSync(join(run, 'annotations.jsonl'), `${JSON.stringify(more)}\n`);
  await page.locator('output', { hasText: '2 of 5' }).waitFor();
  t.deepEqual(await texts(page, '.response .id'), ['plain', 'more']);
  t.true(await page.locator('.counterfactual').first().isVisible());
  t.deepEqual(
    found.filter((one) => !one.startsWith(`request ${url}`)),
    [],
  );
  await browser.close();
  controller.abort();
  t.is(await ended.catch((reason) => reason), controller.signal.reason);
});
