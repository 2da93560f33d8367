/* `npm start`: builds what changed, runs the service on the pinned Node, and ends as it ended. */
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { resolve } from 'node:path';
import { build, project } from './build.mjs';
import { pinnedNode } from './pinned-node.mjs';

build();
const main = resolve(project, 'dist/src/main.js');
const service = spawn(pinnedNode(project), ['--enable-source-maps', main], {
  cwd: project,
  stdio: 'inherit',
});
// The service decides what a signal means; this process only waits for it.
for (const signal of ['SIGTERM', 'SIGINT', 'SIGHUP']) process.on(signal, () => service.kill(signal));
service.on('exit', (code, signal) => process.exit(code ?? 128 + constants.signals[signal]));
