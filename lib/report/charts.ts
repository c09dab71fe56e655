/** The main charts as SVG and PNG files, for papers and READMEs. */
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { CftError } from '../errors.js';
import { makeFolder, writeFileAtomic } from '../files.js';
import { assetPath, checkAsset } from './assets.js';
import type { ReportData } from './data.js';

/** lib/report/viewer/node-charts.ts, bundled. */
interface NodeCharts {
  svgCharts(data: ReportData, width: number): { id: string; title: string; svg: string }[];
}

const width = 640; // pixels of the SVG
const scale = 2; // of the PNG: sharp in print

/** @throws CftError ERR_CFT_NOT_BUILT where the optional package is not there. */
async function loadResvg(): Promise<typeof import('@resvg/resvg-js').Resvg> {
  try {
    return (await import('@resvg/resvg-js')).Resvg;
  } catch (error) {
    throw new CftError(
      'ERR_CFT_NOT_BUILT',
      `charts (--charts): PNG files need the optional package @resvg/resvg-js, which does not load here: ${(error as Error).message}; ` +
        'npm install @resvg/resvg-js',
      { cause: error },
    );
  }
}

/**
 * Writes `<id>.svg` and `<id>.png` for each chart that the data have.
 * @returns the paths of the PNG files.
 */
export async function writeCharts(data: ReportData, folder: string): Promise<string[]> {
  const Resvg = await loadResvg();
  const bundle = pathToFileURL(checkAsset('node-charts.js')).href;
  const { svgCharts } = (await import(bundle)) as NodeCharts;
  makeFolder(folder);
  return svgCharts(data, width).map(({ id, svg }) => {
    writeFileAtomic(join(folder, `${id}.svg`), svg);
    const image = new Resvg(svg, {
      background: '#fff',
      fitTo: { mode: 'zoom', value: scale },
      font: {
        fontFiles: [assetPath('chart-font.ttf')],
        loadSystemFonts: false,
        defaultFontFamily: 'KaTeX_SansSerif',
      },
    });
    const path = join(folder, `${id}.png`);
    writeFileAtomic(path, image.render().asPng());
    return path;
  });
}
