/** Where the parity tests compute: `CFT_TEST_DEVICE` (`npm run gpu` sets it to cuda on the GPU machine), else the CPU. */
export const testDevice = process.env.CFT_TEST_DEVICE ?? 'cpu';
