import { run } from '../app/run.ts';
import { parse, type Command } from './command.ts';

const HELP = `Runs the service until SIGTERM or Ctrl-C.

  tidings start

Without settings it starts a PostgreSQL of its own under .data, makes a secret there, and listens on loopback. What
it says to people goes to standard error; standard output carries the structured log.
`;

/** `tidings start`. */
export const start: Command = async (args, environment, terminal) => {
  const { values } = parse({ args: [...args], options: { help: { type: 'boolean', short: 'h' } } });
  if (values.help === true) terminal.print(HELP);
  else await run(environment);
};
