// A peer that decodes nothing: `node fake-peer.mjs <manner> job.json` answers as lib/bench/protocol.ts says.
//   empty: every rollout ends at once; long: decodes past every budget; absent; crash: ends in its first rollouts;
//   late-crash: ends in mid-measurement; noise: prints what is no JSON; slow: ignores that its input was closed.
import { readFileSync, writeFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

const [manner, jobFile] = process.argv.slice(2);
const job = JSON.parse(readFileSync(jobFile, 'utf8'));
const say = (message) => console.log(JSON.stringify(message));

if (manner === 'absent') {
  say({ type: 'absent', reason: 'there is no such thing' });
  process.exit(0);
}
say({ type: 'ready', versions: { fake: '1.2.3' }, dtype: job.dtype, setting: manner, load_seconds: 0.25 });
let requests = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const { count, results } = JSON.parse(line);
  if (manner === 'crash' || (manner === 'late-crash' && ++requests === 2)) {
    console.error('the reason why');
    process.exit(7);
  }
  if (manner === 'noise') console.log('progress: 50 %');
  const rollouts = job.rollouts.slice(0, count);
  const end = job.end_token_ids[0] ?? -1;
  const decoded = rollouts.map(({ max_new_tokens: most }) =>
    manner === 'long' ? [Array.from({ length: most + 50 }, () => 5), end] : [[], end],
  );
  writeFileSync(results, JSON.stringify(decoded));
  say({ type: 'result', seconds: 0.5 });
}
