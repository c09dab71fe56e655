/** Loaded before the command line: waits after each training step that is told, so that whoever watches can act. */
const write = process.stdout.write.bind(process.stdout);
process.stdout.write = (text, ...rest) => {
  const done = write(text, ...rest);
  if (String(text).includes('"type":"step"'))
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
  return done;
};
