import 'reflect-metadata';
import { ConfigError } from '../config.ts';
import { StartError } from '../database/start-error.ts';
import { issuerCommand } from './issuer-command.ts';

/** `npm run issuer`: the registry of issuers from the command line, above all for the first one. */
try {
  await issuerCommand(process.argv.slice(2), process.env, {
    input: process.stdin,
    print: (text) => process.stdout.write(text),
    report: (line) => process.stderr.write(`${line}\n`),
  });
} catch (error) {
  const operator = error instanceof ConfigError || error instanceof StartError;
  const message = error instanceof Error ? error.message : String(error);
  process.stderr.write(operator ? `${message}\n` : `${message}\n(--help tells how to use this.)\n`);
  process.exitCode = 1;
}
