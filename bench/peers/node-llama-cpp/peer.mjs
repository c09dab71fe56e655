// llama.cpp through node-llama-cpp, as a Node user would pick it: one context with a sequence per rollout (at most as
// many as the library allows), each of which keeps the prefix that its next rollout shares with its last one.
//
// Run by `cft-native bench rollouts --peer node-llama-cpp --gguf FILE`; install: npm install --prefix
// bench/peers/node-llama-cpp (its binaries come inside npm packages; nothing is downloaded or built later).
import { readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

const started = performance.now();
const write = process.stdout.write.bind(process.stdout);
// The library's logger may print on standard output; the harness reads only what `say` writes.
process.stdout.write = process.stderr.write.bind(process.stderr);
const say = (message) => write(`${JSON.stringify(message)}\n`);

/** llama.cpp's own limit on sequences in a context. */
const mostSequences = 256;

const job = JSON.parse(readFileSync(process.argv[2], 'utf8'));

async function library() {
  try {
    return await import('node-llama-cpp');
  } catch (error) {
    if (error?.code !== 'ERR_MODULE_NOT_FOUND') throw error;
    return undefined;
  }
}

const prefixOf = ({ trunk, length, forced_token }) => [...job.trunks[trunk].slice(0, length), forced_token];

async function serve({ getLlama, getModuleVersion, LlamaLogLevel, GgufFileType }) {
  const llama = await getLlama({
    gpu: job.device === 'cpu' ? false : 'auto',
    maxThreads: job.threads,
    build: 'never',
    skipDownload: true,
    logLevel: LlamaLogLevel.error,
  });
  const model = await llama.loadModel({ modelPath: job.gguf });
  const sequences = Math.min(job.rollouts.length, mostSequences);
  const longest = Math.max(...job.rollouts.map((rollout) => rollout.length + 1 + rollout.max_new_tokens));
  const context = await model.createContext({
    sequences,
    contextSize: longest,
    batchSize: 512,
    threads: { ideal: job.threads, min: job.threads },
    ignoreMemorySafetyChecks: true,
  });
  const free = Array.from({ length: sequences }, () => context.getSequence());
  const ends = new Set(job.end_token_ids);

  async function decode(sequence, rollout) {
    const prefix = prefixOf(rollout);
    await sequence.adaptStateToTokens(prefix.slice(0, -1), false);
    const rest = prefix.slice(sequence.nextTokenIndex);
    const tokens = [];
    for await (const token of sequence.evaluate(rest, { temperature: 0, yieldEogToken: true })) {
      if (ends.has(token)) return [tokens, token];
      // Its own idea of an end that is not the model's: the sequence goes no further.
      if (ends.size > 0 && model.isEogToken(token)) break;
      tokens.push(token);
      if (tokens.length >= rollout.max_new_tokens) break;
    }
    return [tokens, -1];
  }

  async function run(count) {
    // What the last repeat left must not serve this one.
    await Promise.all(free.map((sequence) => sequence.clearHistory()));
    const results = new Array(count);
    // Neighbours share most, so each sequence takes the next rollout in order.
    let next = 0;
    const work = async (sequence) => {
      while (next < count) {
        const i = next++;
        results[i] = await decode(sequence, job.rollouts[i]);
      }
    };
    await Promise.all(free.slice(0, count).map(work));
    return results;
  }

  say({
    type: 'ready',
    versions: {
      node_llama_cpp: await getModuleVersion(),
      llama_cpp: String(llama.llamaCppRelease.release),
      node: process.versions.node,
    },
    dtype:
      GgufFileType[model.fileInfo.metadata.general?.file_type]?.replace('MOSTLY_', '') ??
      model.typeDescription,
    setting: `${sequences} sequences, prefix kept`,
    load_seconds: (performance.now() - started) / 1000,
  });
  for await (const line of createInterface({ input: process.stdin })) {
    const { count, results } = JSON.parse(line);
    const start = performance.now();
    const decoded = await run(count);
    const seconds = (performance.now() - start) / 1000;
    writeFileSync(results, JSON.stringify(decoded));
    say({ type: 'result', seconds });
  }
  await llama.dispose();
}

const found = await library();
if (found === undefined) say({ type: 'absent', reason: 'node-llama-cpp is not installed' });
else if (!job.gguf) say({ type: 'absent', reason: 'it needs the model as a GGUF file: --gguf FILE' });
else await serve(found);
