/** Who is measured beside us: programs in bench/peers, each with an install line of its own. */
import { join, relative } from 'node:path';
import { packageRoot } from '../native/addon.mjs';
import type { PeerName, TrainPeerName } from './names.js';
import type { SideCommand } from './side.js';

export interface Peer extends SideCommand {
  /** Every so many positions where --peer-every says auto: what is slow does not have to do it all. */
  every: number;
  /** Loads float32 and bfloat16 alike, so that the faster one can be taken. */
  choosesDtype: boolean;
}

const peersFolder = join(packageRoot, 'bench', 'peers');
/** As one would type it: the package may be a dependency of the folder one is in. */
const shown = (name: string): string => relative(process.cwd(), join(peersFolder, name)) || '.';

const pythonInstall = (): string =>
  `python3 -m venv .venv && .venv/bin/pip install -r ${shown('requirements.txt')}, then --python .venv/bin/python`;

/** @param python interpreter of the peers in Python. */
export function peerOf(name: PeerName, python: string): Peer {
  switch (name) {
    case 'hf-generate':
    case 'hf-continuous': {
      const script = join(peersFolder, `${name.replace('-', '_')}.py`);
      return {
        name,
        program: python,
        args: [script],
        install: pythonInstall(),
        every: name === 'hf-generate' ? 1 : 4,
        choosesDtype: true,
      };
    }
    case 'node-llama-cpp':
      return {
        name,
        program: process.execPath,
        args: [join(peersFolder, 'node-llama-cpp', 'peer.mjs')],
        install: `npm install --prefix ${shown('node-llama-cpp')}, and --gguf FILE`,
        every: 4,
        choosesDtype: false,
      };
  }
}

const trainInstall = (): string =>
  `python3 -m venv .venv && .venv/bin/pip install -r ${shown('requirements-train.txt')}, then --python .venv/bin/python`;

/** A trainer beside ours. @param python its interpreter. */
export function trainPeerOf(name: TrainPeerName, python: string): SideCommand {
  const script = join(peersFolder, name === 'transformers' ? 'hf_trainer.py' : 'trl_sft.py');
  // The job's path comes first.
  const after = name.startsWith('trl-') ? [name.slice('trl-'.length)] : [];
  return { name, program: python, args: [script], after, install: trainInstall() };
}
