/**
 * TensorBoard event files: TFRecord framing (tensorflow/core/lib/io/record_writer.h) around Event messages
 * (tensorflow/core/util/event.proto), of which only scalars are written. A run that goes on starts a file of its own,
 * whose first event tells TensorBoard to forget the steps that are done again.
 */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { appendBytes, makeOutputFolder } from '../files.js';

const table = Uint32Array.from({ length: 256 }, (_, n) => {
  let value = n;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0x82f63b78 : value >>> 1;
  return value;
});

/** CRC-32C (Castagnoli), as TFRecord masks it. */
export function maskedCrc32c(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = table[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  crc = ~crc >>> 0;
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
}

/** Length, its checksum, the bytes, their checksum. */
function record(bytes: Uint8Array): Buffer {
  const framed = Buffer.alloc(bytes.length + 16);
  framed.writeBigUInt64LE(BigInt(bytes.length), 0);
  framed.writeUInt32LE(maskedCrc32c(framed.subarray(0, 8)), 8);
  framed.set(bytes, 12);
  framed.writeUInt32LE(maskedCrc32c(bytes), bytes.length + 12);
  return framed;
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = BigInt(value);
  for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
  return Buffer.from([...bytes, Number(rest)]);
}

// Protocol buffer fields by wire type: 0 varint, 1 64 bit, 2 bytes, 5 32 bit.
const integerField = (field: number, value: number): Buffer =>
  Buffer.concat([varint(field << 3), varint(value)]);
const bytesField = (field: number, bytes: Uint8Array): Buffer =>
  Buffer.concat([varint((field << 3) | 2), varint(bytes.length), bytes]);
function doubleField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(9);
  bytes.writeUInt8((field << 3) | 1, 0);
  bytes.writeDoubleLE(value, 1);
  return bytes;
}
function floatField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(5);
  bytes.writeUInt8((field << 3) | 5, 0);
  bytes.writeFloatLE(value, 1);
  return bytes;
}

/** Event: wall_time = 1, step = 2 (left out where 0), then the field that says what it is. */
function event(wallTime: number, step: number, content: Buffer): Buffer {
  const fields = [doubleField(1, wallTime)];
  if (step > 0) fields.push(integerField(2, step));
  return record(Buffer.concat([...fields, content]));
}

const fileVersion = bytesField(3, Buffer.from('brain.Event:2'));
/** SessionLog, status START: TensorBoard drops what earlier files say of this step and later ones. */
const sessionStart = bytesField(7, integerField(1, 1));

function summary(scalars: Readonly<Record<string, number>>): Buffer {
  const values = Object.entries(scalars).map(([tag, value]) =>
    bytesField(1, Buffer.concat([bytesField(1, Buffer.from(tag)), floatField(2, value)])),
  );
  return bytesField(5, Buffer.concat(values));
}

export class EventWriter {
  readonly path: string;
  readonly #now: () => number;

  /**
   * @param folder may be missing.
   * @param firstStep what earlier files say of this step and later ones is to be forgotten.
   * @param now seconds since 1970.
   */
  constructor(folder: string, firstStep: number, now: () => number = () => Date.now() / 1000) {
    this.#now = now;
    makeOutputFolder(folder);
    const earlier = readdirSync(folder).filter((name) => name.includes('tfevents')).length;
    // TensorBoard reads the files of a folder in the order of their names.
    const second = String(Math.floor(now())).padStart(10, '0');
    this.path = join(folder, `events.out.tfevents.${second}.${String(earlier).padStart(4, '0')}.cft-native`);
    appendBytes(this.path, event(now(), 0, fileVersion));
    if (earlier > 0) appendBytes(this.path, event(now(), firstStep, sessionStart));
  }

  /**
   * One event; values that are not finite are left out.
   * @throws CftError ERR_CFT_IO
   */
  scalars(step: number, values: Readonly<Record<string, number | null>>): void {
    const finite = Object.entries(values).filter(([, value]) => Number.isFinite(value)) as [string, number][];
    if (finite.length > 0)
      appendBytes(this.path, event(this.#now(), step, summary(Object.fromEntries(finite))));
  }
}
