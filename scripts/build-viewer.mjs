// Bundles the report's viewer into dist/report: viewer.js and viewer.css go into every page, node-charts.js draws the
// same charts in Node. What they are made of (Observable Plot, KaTeX, a DOM) is needed here alone, not by users.
import { copyFileSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { build } from 'esbuild';
import { packageRoot } from '../lib/native/addon.mjs';

const source = join(packageRoot, 'lib', 'report', 'viewer');
const target = join(packageRoot, 'dist', 'report');
const katex = dirname(createRequire(import.meta.url).resolve('katex/package.json'));

/** What mathematics of school and contests is set in; a rare other alphabet falls back to the reader's own fonts. */
const fonts = new Set(
  'AMS-Regular Caligraphic-Regular Main-Bold Main-Italic Main-Regular Math-Italic SansSerif-Regular Size1-Regular Size2-Regular Size3-Regular Size4-Regular Typewriter-Regular'.split(
    ' ',
  ),
);

/** KaTeX's style with the fonts in it, in one format. */
function katexStyle() {
  const style = readFileSync(join(katex, 'dist', 'katex.min.css'), 'utf8');
  return style.replace(/@font-face\{[^}]*\}/g, (face) => {
    const [, name] = /KaTeX_([\w-]+)\.woff2/.exec(face) ?? [];
    if (!fonts.has(name)) return '';
    const data = readFileSync(join(katex, 'dist', 'fonts', `KaTeX_${name}.woff2`)).toString('base64');
    return face.replace(/src:[^;}]*/, `src:url(data:font/woff2;base64,${data}) format("woff2")`);
  });
}

/** Folders of the packages that went into a bundle. */
function packagesOf(...results) {
  const folders = results.flatMap(({ metafile }) =>
    Object.keys(metafile.inputs).flatMap(
      (path) => /^(.*node_modules\/(?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1] ?? [],
    ),
  );
  return [...new Set(folders)].sort().map((folder) => join(packageRoot, folder));
}

/** Their licences ask to be kept with what contains them. */
function licencesOf(folders) {
  return folders.map((folder) => {
    const { name, version, license } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
    const file = readdirSync(folder).find((entry) => /^licen[cs]e/i.test(entry));
    const text =
      file && existsSync(join(folder, file)) ? readFileSync(join(folder, file), 'utf8').trim() : license;
    return { name, version, license, text };
  });
}

const common = {
  absWorkingDir: packageRoot,
  metafile: true,
  bundle: true,
  minify: true,
  legalComments: 'none',
  logLevel: 'warning',
};

export async function buildViewer() {
  mkdirSync(target, { recursive: true });
  const style = { ...common, entryPoints: [join(source, 'style.css')], write: false };
  const [script, css, node] = await Promise.all([
    build({
      ...common,
      entryPoints: [join(source, 'main.ts')],
      format: 'iife',
      target: ['es2022'],
      charset: 'utf8',
      write: false,
    }),
    build(style),
    build({
      ...common,
      entryPoints: [join(source, 'node-charts.ts')],
      format: 'esm',
      platform: 'node',
      target: ['node20'],
      // linkedom would use it for <canvas>, which no chart has.
      external: ['canvas'],
      outfile: join(target, 'node-charts.js'),
    }),
  ]);
  // In the page it stands inside <script>: nothing in it may end that.
  const text = script.outputFiles[0].text
    .trim()
    .replaceAll('</script', '<\\/script')
    .replaceAll('<!--', '<\\!--');
  const inPage = licencesOf(packagesOf(script));
  const notice = inPage.map(({ name, version, license }) => `${name} ${version} (${license})`).join(', ');
  writeFileSync(join(target, 'viewer.js'), `/* Contains ${notice}. */${text}`);
  const licences = licencesOf(packagesOf(script, node));
  writeFileSync(
    join(target, 'licences.txt'),
    licences
      .map(({ name, version, text: licence }) => `${name} ${version}\n\n${licence}\n`)
      .join('\n---\n\n'),
  );
  writeFileSync(join(target, 'viewer.css'), katexStyle() + css.outputFiles[0].text.trim());
  // Text of the PNG files looks alike everywhere, whatever fonts a machine has.
  copyFileSync(join(katex, 'dist', 'fonts', 'KaTeX_SansSerif-Regular.ttf'), join(target, 'chart-font.ttf'));
}
