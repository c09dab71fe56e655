/** Options of Model.createTrainer, checked by name and type: one that is passed over would train something else. */
import type { NativeLoraOptions, NativeTrainerOptions } from '../native/binding.js';
import { checkOptionNames, expect } from './checks.js';
import { isObject } from './json-file.js';

type Kind = 'a number' | 'an integer of at least 0' | 'true or false' | 'a list of names';

const kinds: Readonly<Record<Exclude<keyof NativeTrainerOptions, 'lora'>, Kind>> = {
  masterWeights: 'true or false',
  beta1: 'a number',
  beta2: 'a number',
  epsilon: 'a number',
  weightDecay: 'a number',
  maxGradNorm: 'a number',
  seed: 'an integer of at least 0',
  bf16Moments: 'true or false',
  checkpoint: 'true or false',
};
const mayLack = new Set(['bf16Moments', 'checkpoint']);

const loraKinds: Readonly<Record<keyof NativeLoraOptions, Kind>> = {
  rank: 'an integer of at least 0',
  alpha: 'a number',
  dropout: 'a number',
  targets: 'a list of names',
  rankStabilized: 'true or false',
};

function is(kind: Kind, value: unknown): boolean {
  switch (kind) {
    case 'a number':
      return typeof value === 'number';
    case 'an integer of at least 0':
      return Number.isSafeInteger(value) && (value as number) >= 0;
    case 'true or false':
      return typeof value === 'boolean';
    case 'a list of names':
      return Array.isArray(value) && value.every((one) => typeof one === 'string');
  }
}

function check(options: object, expected: Readonly<Record<string, Kind>>, prefix = ''): void {
  for (const [name, kind] of Object.entries(expected)) {
    const value = (options as Record<string, unknown>)[name];
    if (value === undefined && mayLack.has(name)) continue;
    expect('ERR_CFT_BAD_OPTION', prefix + name, value, is(kind, value), kind);
  }
}

/** @throws CftError ERR_CFT_BAD_OPTION naming the option, expected and found. Ranges are checked by native code. */
export function checkTrainerOptions(options: NativeTrainerOptions): void {
  checkOptionNames(options, ['lora', ...Object.keys(kinds)], 'createTrainer');
  check(options, kinds);
  const { lora } = options;
  if (lora === undefined) return;
  expect('ERR_CFT_BAD_OPTION', 'lora', lora, isObject(lora), 'an object');
  checkOptionNames(lora, Object.keys(loraKinds), "createTrainer's lora");
  check(lora, loraKinds, 'lora.');
}
