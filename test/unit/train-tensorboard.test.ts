/** Event files against those of TensorBoard's own writer (test/fixtures/make_tensorboard.py), byte for byte. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { EventWriter, maskedCrc32c } from '../../lib/train/tensorboard.js';
import { fixturePath, readJson, temporaryFolder } from '../helpers/fixtures.js';

const expected = readJson<{ first: string[]; second: string[] }>(fixturePath('tensorboard.json'));
const bytesOf = (records: string[]): Buffer =>
  Buffer.concat(records.map((record) => Buffer.from(record, 'base64')));

test('a run, and one that goes on after it, as TensorBoard writes them', (t) => {
  const folder = join(temporaryFolder(t), 'tensorboard');
  const first = new EventWriter(folder, 0, () => 1_700_000_000.25);
  first.scalars(0, { 'validation/loss': 2.5, 'validation/accuracy': 0.125 });
  first.scalars(1, { 'train/loss': 1.5, 'train/learning_rate': 1e-5, 'train/grad_norm': 3.75 });
  first.scalars(300, { 'train/loss': 0.5, 'train/grad_norm': null, 'probe/other_loss': Number.NaN });
  first.scalars(301, { 'train/grad_norm': null });
  t.deepEqual(readFileSync(first.path), bytesOf(expected.first));
  const second = new EventWriter(folder, 2, () => 1_700_000_100);
  second.scalars(2, { 'train/loss': 1.25 });
  t.deepEqual(readFileSync(second.path), bytesOf(expected.second));
  const names = readdirSync(folder);
  t.deepEqual(
    names.sort(),
    [first.path, second.path].map((path) => path.slice(folder.length + 1)),
  );
});

test('two runs within a second have files of their own, in order', (t) => {
  const folder = temporaryFolder(t);
  const paths = [0, 1, 2].map(() => new EventWriter(folder, 0, () => 1_700_000_000).path);
  t.deepEqual(paths, [...new Set(paths)].sort());
});

test('the checksum is CRC-32C, masked', (t) => {
  // RFC 3720, B.4: 32 zero bytes have 0x8a9136aa.
  const mask = (crc: number): number => (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
  t.is(maskedCrc32c(new Uint8Array(32)), mask(0x8a9136aa));
  t.is(maskedCrc32c(Buffer.from('123456789')), mask(0xe3069283));
});
