/* Starts the service as a newcomer would, publishes once, and stops it with Ctrl-C. */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const probe = createServer().listen(0, '127.0.0.1');
await once(probe, 'listening');
const { port } = probe.address();
probe.close();

const folder = mkdtempSync(join(tmpdir(), 'tidings-boot-'));
// As root the database runs as another user, who has to get in.
chmodSync(folder, 0o755);
// An empty value counts as unset: whatever the surroundings have configured, this is a start without settings.
const unset = { DATABASE_URL: '', JWT_SECRET: '', JWKS_URL: '' };
const env = { ...process.env, ...unset, PORT: String(port), DATA_DIR: join(folder, 'data') };
const service = spawn('npm', ['start'], { env, stdio: ['ignore', 'inherit', 'inherit'], detached: true });
const ended = once(service, 'exit');

try {
  await ready(Date.now() + 180_000);
  const claims = ['--tenant', 'boot', '--client', 'ci', '--scope', 'notifications:publish'];
  const token = execFileSync('npm', ['run', '--silent', 'token', '--', ...claims], {
    env,
    encoding: 'utf8',
  }).trim();
  const answer = await fetch(`http://127.0.0.1:${port}/v1/notifications`, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
    body: JSON.stringify({ to: { user: 'alice' }, type: 'boot', data: null }),
  });
  if (answer.status !== 201)
    throw new Error(`The publish was answered ${answer.status}: ${await answer.text()}`);
  // As a terminal does it: to everyone in the foreground.
  process.kill(-service.pid, 'SIGINT');
  const [code] = await Promise.race([ended, sleep(30_000, ['none within 30 s'])]);
  if (code !== 0) throw new Error(`The exit code after Ctrl-C was ${code}.`);
  console.log('Started, published, stopped with exit code 0.');
} catch (error) {
  console.error(error);
  process.exitCode = 1;
} finally {
  if (service.exitCode === null && service.signalCode === null) process.kill(-service.pid, 'SIGKILL');
  rmSync(folder, { recursive: true, force: true });
}

async function ready(deadline) {
  for (;;) {
    const answer = await fetch(`http://127.0.0.1:${port}/health/ready`).catch(() => undefined);
    if (answer?.ok === true) return;
    if (service.exitCode !== null) throw new Error(`npm start ended with ${service.exitCode}.`);
    if (Date.now() > deadline) throw new Error('The service did not become ready.');
    await sleep(100);
  }
}
