/** Colours of the terminal: none where there is no terminal, where it has none, or where NO_COLOR is set. */
import { styleText } from 'node:util';

export type Style = 'bold' | 'dim' | 'cyan' | 'green' | 'yellow' | 'red';

/** What of a stream says whether it shows colours: Node's own answer knows NO_COLOR, FORCE_COLOR and TERM. */
export interface ColorStream {
  isTTY?: boolean;
  hasColors?(): boolean;
}

export type Painter = (style: Style, text: string) => string;

export function painterOf(stream: ColorStream): Painter {
  if (!stream.isTTY || !stream.hasColors?.()) return (_, text) => text;
  // Newer Node would look at standard output by itself; the stream that is written to decides.
  return (style, text) => styleText(style, text, { validateStream: false });
}
