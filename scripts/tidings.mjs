/* `npm start`, `npm run migrate` and so on: builds what changed, runs `tidings <command>` on the pinned Node, and ends as it ended. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import { resolve } from 'node:path';
import { build, project } from './build.mjs';
import { pinnedNode } from './pinned-node.mjs';

build();
// As src/main.ts has them for who runs it itself: stack traces name the sources, and new objects get 2 x 16 MiB at most. V8
// would take 2 x 64 in a crowd, a third of what the process keeps with 10,000 streams, for the same work.
const flags = JSON.parse(readFileSync(resolve(project, 'scripts/node-flags.json'), 'utf8'));
const main = resolve(project, 'dist/src/main.js');
const program = spawn(pinnedNode(project), [...flags, main, ...process.argv.slice(2)], {
  cwd: project,
  stdio: 'inherit',
});
// The service decides what a signal means; this process only waits for it.
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => program.kill(signal));
program.on('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal]));
