#!/usr/bin/env node
import { runProgram } from './program.js';

// A reader that goes away (`cft-native verify | head`) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
  throw error;
});

// When the event loop is empty, Node takes its signal handlers away before the process has ended, and a Ctrl-C that
// falls into the tenth of a second in which libtorch is unloaded would make a finished run look killed. An exit from
// here on leaves them in place; all output is written by then.
process.once('exit', (code) => process.exit(code));

// A verifier whose promise nobody will ever settle keeps no process alive; unfinished work must not look done.
let ended = false;
process.once('beforeExit', () => {
  if (ended) return;
  process.stderr.write(
    'cft-native: the work has not ended, but nothing is left to wait for: does a verifier return a promise that ' +
      'never settles? What is done is on disk (--resume)\n',
  );
  process.exit(1);
});

process.exitCode = await runProgram(process.argv.slice(2));
ended = true;
