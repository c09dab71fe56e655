import { renderDoctor, runDoctor } from '../../native/doctor.js';
import type { CommandFunction } from '../program.js';

export const doctorCommand: CommandFunction = async (_, { json }) => {
  const report = await runDoctor();
  process.stdout.write(`${json ? JSON.stringify(report) : renderDoctor(report)}\n`);
  return report.ok ? 0 : 1;
};
