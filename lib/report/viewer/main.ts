/** Draws the report from the data in the page; where the page is served while a run goes on, again at each change. */
import type { ReportData } from '../data.js';
import { h } from './dom.js';
import { Responses } from './responses.js';
import { header, sections } from './sections.js';

/** The data of the page: JSON, deflated, in base64 (see page.ts). */
async function unpack(text: string): Promise<ReportData> {
  const bytes = Uint8Array.from(atob(text), (char) => char.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
  return (await new Response(stream).json()) as ReportData;
}

const main = document.getElementById('report')!;
const responses = new Responses();

function draw(data: ReportData): void {
  const open = new Set([...main.querySelectorAll('details[open]')].map((one) => one.closest('section')?.id));
  const made = sections(data, (text) => responses.showToken(text));
  for (const one of made)
    if (open.has(one.id)) for (const details of one.querySelectorAll('details')) details.open = true;
  const footer = h('footer', {}, data.generator);
  // The responses stay where they are, with what is searched and open in them.
  for (const child of [...main.children]) if (child !== responses.element) child.remove();
  const after = made.filter(({ id }) => id === 'cost' || id === 'options');
  const above = made.filter((one) => !after.includes(one));
  responses.update(data);
  if (!main.contains(responses.element)) main.append(responses.element);
  responses.element.before(header(data), ...above);
  responses.element.after(...after, footer);
  document.title = data.title;
  document.documentElement.dataset.status = data.status;
}

/** Redraws at the server's word; the browser itself reconnects. */
function follow(path: string): void {
  const events = new EventSource(path);
  let busy = false;
  let again = false;
  const refresh = async (): Promise<void> => {
    again = busy;
    if (busy) return;
    busy = true;
    try {
      const response = await fetch('data');
      if (response.ok) draw((await response.json()) as ReportData);
    } catch {
      // The server is gone; the page stays as it is.
    }
    busy = false;
    if (again) await refresh();
  };
  events.addEventListener('change', () => void refresh());
  events.addEventListener('error', () => {
    document.documentElement.dataset.connection = 'lost';
  });
  events.addEventListener('open', () => {
    delete document.documentElement.dataset.connection;
  });
}

async function start(): Promise<void> {
  try {
    draw(await unpack(document.getElementById('data')!.textContent));
  } catch (error) {
    main.append(h('p.status', {}, `The report cannot be drawn by this browser: ${String(error)}`));
    return;
  }
  const { live } = document.documentElement.dataset;
  if (live !== undefined) follow(live);
}

void start();
