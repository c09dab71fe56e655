/**
 * The page served while a run goes on, on the loopback address only: GET / is the page, /data its data, /events tells
 * when they changed. A page of another site must not read it by way of this browser: the Host header has to be this
 * address (a name that was made to point here has another), and Origin, where there is one, too.
 */
import { once } from 'node:events';
import type { Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { serve } from '@hono/node-server';
import { Hono } from 'hono';
import { streamSSE } from 'hono/streaming';
import { CftError } from '../errors.js';
import type { RunReader } from './collect.js';
import { contentSecurityPolicy, renderPage } from './page.js';

const address = '127.0.0.1';
const lookEvery = 1000; // ms
/** An idle stream says something now and then, so that a dead one is noticed. */
const beatEvery = 15_000; // ms

export interface ServeOptions {
  /** 0: a free one. */
  port: number;
  signal?: AbortSignal | undefined;
  onListening?: ((url: string) => void) | undefined;
}

/** Names under which this server may be asked for; browsers leave out port 80. */
const hostsOf = (port: number): string[] =>
  [address, 'localhost'].flatMap((name) => [`${name}:${port}`, ...(port === 80 ? [name] : [])]);

/** Looks for changes while somebody listens. */
class Changes {
  readonly #reader: RunReader;
  readonly #listeners = new Set<(stamp: string) => void>();
  #timer: NodeJS.Timeout | undefined;
  #stamp: string;

  constructor(reader: RunReader) {
    this.#reader = reader;
    this.#stamp = reader.stamp;
  }

  #look(): void {
    const { stamp } = this.#reader;
    if (stamp === this.#stamp) return;
    this.#stamp = stamp;
    for (const listener of this.#listeners) listener(stamp);
  }

  listen(listener: (stamp: string) => void): () => void {
    this.#listeners.add(listener);
    this.#timer ??= setInterval(() => this.#look(), lookEvery);
    return () => {
      this.#listeners.delete(listener);
      if (this.#listeners.size > 0) return;
      clearInterval(this.#timer);
      this.#timer = undefined;
    };
  }
}

/** The application, apart from the socket; `port` is the one that requests name. */
export function reportApp(reader: RunReader, port: () => number): Hono {
  const app = new Hono();
  const changes = new Changes(reader);
  // One read at a time: two browsers must not both take what was added to a file.
  let reading: Promise<unknown> = Promise.resolve();
  const read: RunReader['read'] = () => {
    const next = reading.then(() => reader.read());
    reading = next.catch(() => {});
    return next;
  };
  app.use(async (c, next) => {
    const hosts = hostsOf(port());
    const origin = c.req.header('origin');
    const site = c.req.header('sec-fetch-site');
    if (!hosts.includes(c.req.header('host') ?? ''))
      return c.text('refused: this host is not served here\n', 403);
    if (origin !== undefined && !hosts.some((host) => origin === `http://${host}`))
      return c.text('refused: the request comes from another origin\n', 403);
    if (site === 'cross-site' || site === 'same-site')
      return c.text('refused: the request comes from another site\n', 403);
    if (c.req.method !== 'GET' && c.req.method !== 'HEAD')
      return c.text('refused: only GET is served\n', 405);
    c.header('Cache-Control', 'no-store');
    c.header('Content-Security-Policy', `${contentSecurityPolicy(true)}; frame-ancestors 'none'`);
    c.header('Cross-Origin-Resource-Policy', 'same-origin');
    c.header('Referrer-Policy', 'no-referrer');
    c.header('X-Content-Type-Options', 'nosniff');
    return next();
  });
  app.get('/', async (c) => c.html(renderPage(await read(), { live: true })));
  app.get('/data', async (c) => c.json(await read()));
  app.get('/events', (c) =>
    streamSSE(c, async (stream) => {
      let wake = (): void => {};
      let waiting = '';
      const stop = changes.listen((stamp) => {
        waiting = stamp;
        wake();
      });
      stream.onAbort(() => {
        stop();
        wake();
      });
      try {
        while (!stream.aborted) {
          if (waiting !== '') {
            waiting = '';
            await stream.writeSSE({ event: 'change', data: '' });
          } else await stream.writeSSE({ event: 'beat', data: '' });
          if (waiting !== '') continue;
          await new Promise<void>((resolve) => {
            const timer = setTimeout(resolve, beatEvery);
            wake = () => {
              clearTimeout(timer);
              resolve();
            };
          });
        }
      } finally {
        stop();
      }
    }),
  );
  app.notFound((c) => c.text('not found\n', 404));
  app.onError((error, c) => c.text(`${error instanceof CftError ? error.message : 'internal error'}\n`, 500));
  return app;
}

/**
 * Serves until the signal is aborted.
 * @throws CftError ERR_CFT_BAD_OPTION where the port is taken.
 */
export async function serveReport(reader: RunReader, options: ServeOptions): Promise<void> {
  const { signal, onListening } = options;
  let port = options.port;
  const app = reportApp(reader, () => port);
  const server = serve({ fetch: app.fetch, hostname: address, port }) as Server;
  try {
    await once(server, 'listening', { signal });
  } catch (error) {
    server.close();
    signal?.throwIfAborted();
    throw new CftError(
      'ERR_CFT_BAD_OPTION',
      `port (--port): ${address}:${options.port} cannot be used: ${(error as Error).message}`,
      { cause: error },
    );
  }
  port = (server.address() as AddressInfo).port;
  onListening?.(`http://${address}:${port}/`);
  if (signal === undefined) await once(server, 'close');
  else if (!signal.aborted) await once(signal, 'abort');
  server.close();
  server.closeAllConnections();
}
