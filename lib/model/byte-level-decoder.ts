/**
 * Text of ids under a ByteLevel decoder (GPT-2's: each byte is written as one visible character), as the `tokenizers`
 * package gives it. Every rollout is decoded as a whole, and there it costs a call into Rust per token and a copy of
 * every string; here most tokens are strings that are joined.
 */
import { isObject, type JsonObject } from './json-file.js';

/** Whether a tokenizer.json has this decoder and nothing around it. */
export const isByteLevel = ({ decoder }: JsonObject): boolean =>
  isObject(decoder) && decoder.type === 'ByteLevel';

/** From the visible character to its byte: printable Latin-1 stands for itself, the rest from U+0100 on, in order. */
const byteOf = new Map<string, number>();
for (let byte = 0, next = 0x100; byte < 256; byte++) {
  const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte !== 0xad);
  byteOf.set(String.fromCharCode(printable ? byte : next++), byte);
}

const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });
/** As Rust's from_utf8_lossy. */
const lossyUtf8 = new TextDecoder('utf-8', { ignoreBOM: true });

/** A token that holds other characters (an added one) stands for its own bytes. */
function bytesOf(token: string): Uint8Array {
  const bytes = Array.from(token, (character) => byteOf.get(character));
  return bytes.includes(undefined) ? Buffer.from(token, 'utf8') : Uint8Array.from(bytes as number[]);
}

export class ByteLevelDecoder {
  readonly #tokenOf: (id: number) => string | null;
  /** By id: the token's text, or its bytes where they are not whole characters. */
  readonly #pieces: (string | Uint8Array | undefined)[];

  /** @param tokenOf null for ids that give no text; those of the vocabulary are below `size`. */
  constructor(size: number, tokenOf: (id: number) => string | null) {
    this.#tokenOf = tokenOf;
    this.#pieces = new Array(size);
  }

  #piece(id: number): string | Uint8Array {
    const token = this.#tokenOf(id);
    const bytes = token === null ? new Uint8Array(0) : bytesOf(token);
    let piece: string | Uint8Array;
    try {
      piece = strictUtf8.decode(bytes);
    } catch {
      piece = bytes;
    }
    if (id >= 0 && id < this.#pieces.length) this.#pieces[id] = piece;
    return piece;
  }

  decode(ids: Iterable<number>): string {
    const parts: (string | Uint8Array)[] = [];
    let whole = true;
    for (const id of ids) {
      const piece = this.#pieces[id] ?? this.#piece(id);
      if (typeof piece !== 'string') whole = false;
      parts.push(piece);
    }
    if (whole) return parts.join('');
    return lossyUtf8.decode(
      Buffer.concat(parts.map((part) => (typeof part === 'string' ? Buffer.from(part, 'utf8') : part))),
    );
  }
}
