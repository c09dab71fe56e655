/** The charts as SVG text, in Node: bundled with Plot and a small DOM, so that a user installs neither. */
import { parseHTML } from 'linkedom';
import type { ReportData } from '../data.js';
import { allCharts, type Theme } from './charts.js';

/** Plain colours on white, for papers. */
const theme: Theme = {
  colors: ['#0072b2', '#d55e00', '#00805d', '#b14d83'],
  text: '#1b1b1b',
  muted: '#63635f',
  background: '#fff',
  font: 'KaTeX_SansSerif, sans-serif',
  fontSize: 13,
};

export interface SvgChart {
  id: string;
  title: string;
  svg: string;
}

/** @param width in pixels. */
export function svgCharts(data: ReportData, width: number): SvgChart[] {
  const { document } = parseHTML('<!doctype html><html><body></body></html>');
  return allCharts(data).map(({ id, title, draw }) => {
    const element = draw({ theme, width, interactive: false, document: document as unknown as Document });
    element.setAttribute('xmlns', 'http://www.w3.org/2000/svg');
    return { id, title, svg: element.outerHTML };
  });
}
