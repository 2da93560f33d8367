import { spawn, type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { lockFolder } from '../../src/postgres/embedded-server.ts';
import { settingsOf, type DatabasePlace } from './database.ts';
import { eventually } from './eventually.ts';
import { uniqueNodeName } from './node-name.ts';
import { ownPort } from './own-port.ts';
import { splitSettings, type TestSettings } from './settings.ts';
import { TEST_SECRET } from './tokens.ts';

const PROJECT = resolve(import.meta.dirname, '../..');

const NODE_FLAGS = JSON.parse(readFileSync(join(PROJECT, 'scripts/node-flags.json'), 'utf8')) as string[];

/** A start takes a second or two, and twenty times as long beside what keeps the machine busy. */
const START_PATIENCE_MS = 120_000;
/** For a build, one's own or that of another test file. */
const BUILD_PATIENCE_MS = 300_000;

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

/** What else may stand in the environment: options of Node, and a setting that is none any more. */
type ProcessSettings = TestSettings & { readonly NODE_OPTIONS?: string; readonly LEDGER_FLUSH_MS?: string };

/** The service as it is deployed: built, and a process of its own. */
export class ServiceProcess {
  /** What it wrote for the operator so far. */
  stderr = '';
  /** Its log so far. */
  stdout = '';
  /** Resolves when the process has ended, in whatever way. */
  readonly ended: Promise<Exit>;
  /** Undefined while it runs. */
  exit: Exit | undefined;

  private constructor(
    readonly url: string,
    private readonly child: ChildProcess,
  ) {
    const dismissGuard = guard(child);
    child.stdout?.setEncoding('utf8').on('data', (text: string) => (this.stdout += text));
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (this.stderr += text));
    this.ended = new Promise((settle) => {
      // Unlike `exit`, this comes after the last of its output.
      child.once('close', (code, signal) => {
        this.exit = { code, signal };
        dismissGuard();
        settle(this.exit);
      });
    });
  }

  get pid(): number {
    return this.child.pid ?? Number.NaN;
  }

  /** Starts it and does not wait until it is ready. */
  static async launch(database: DatabasePlace, settings: ProcessSettings = {}): Promise<ServiceProcess> {
    await build();
    const port = settings.PORT === undefined ? await ownPort() : Number(settings.PORT);
    const { environment, tuning } = splitSettings(settings);
    const env = {
      PATH: process.env['PATH'],
      HOST: '127.0.0.1',
      PORT: String(port),
      ...settingsOf(database),
      JWT_SECRET: TEST_SECRET,
      LOG_LEVEL: 'warn',
      SHUTDOWN_DELAY_SECONDS: '0',
      NODE_NAME: uniqueNodeName(),
      ...environment,
    };
    // The program itself, unless constants are to be others than its own: those come in by no setting.
    const command =
      Object.keys(tuning).length === 0
        ? [join(PROJECT, 'dist/src/main.js')]
        : [join(PROJECT, 'test/support/tuned-service.mjs'), JSON.stringify(tuning)];
    const child = spawn(process.execPath, [...NODE_FLAGS, ...command], {
      cwd: tmpdir(),
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    await once(child, 'spawn');
    return new ServiceProcess(`http://127.0.0.1:${port}`, child);
  }

  /** Waits until it takes work. */
  async ready(): Promise<void> {
    let ended = false;
    await eventually(
      async () => {
        ended = this.exit !== undefined;
        if (!ended && !(await fetch(`${this.url}/health/ready`)).ok) throw new Error('It is not ready.');
      },
      { within: START_PATIENCE_MS, every: 50 },
    );
    if (ended) throw new Error(`The service ended with ${JSON.stringify(this.exit)}: ${this.#words()}`);
  }

  kill(signal: NodeJS.Signals): void {
    this.child.kill(signal);
  }

  /** For the end of the test: nothing is left of it. */
  async end(): Promise<void> {
    this.kill('SIGKILL');
    await this.ended;
  }

  #words(): string {
    return `${this.stderr}${this.stdout}`.slice(-2_000);
  }
}

/**
 * A test run that is interrupted runs no `end`. This shell outlives it by a moment: its input ends when we end, in
 * whatever way, and then it takes the service along.
 */
function guard(child: ChildProcess): () => void {
  const shell = spawn(
    '/bin/sh',
    ['-c', 'trap "" INT TERM HUP; cat >/dev/null; kill -KILL "$1"', 'sh', String(child.pid)],
    {
      detached: true,
      stdio: ['pipe', 'ignore', 'ignore'],
    },
  );
  shell.unref();
  if ('unref' in shell.stdin && typeof shell.stdin.unref === 'function') shell.stdin.unref();
  return () => {
    shell.kill('SIGKILL');
    shell.stdin.destroy();
  };
}

/** Starts the service on a database and waits until it takes work. */
export async function startServiceProcess(
  database: DatabasePlace,
  settings: ProcessSettings = {},
): Promise<ServiceProcess> {
  const service = await ServiceProcess.launch(database, settings);
  try {
    await service.ready();
    return service;
  } catch (error) {
    await service.end();
    throw error;
  }
}

let built: Promise<void> | undefined;

/** Builds what changed, once per test file. Test files run beside each other, and two builds would trip over one another. */
export function build(): Promise<void> {
  built ??= (async () => {
    const folder = join(
      tmpdir(),
      `tidings-build-${createHash('sha256').update(PROJECT).digest('hex').slice(0, 16)}`,
    );
    await mkdir(folder, { recursive: true });
    const lock = await eventually(() => lockFolder(folder), { within: BUILD_PATIENCE_MS, every: 100 });
    try {
      await run(join(PROJECT, 'scripts/build.mjs'));
    } finally {
      lock.release();
    }
  })();
  return built;
}

async function run(script: string): Promise<void> {
  const child = spawn(process.execPath, [script], { stdio: ['ignore', 'pipe', 'pipe'] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (text) => (output += String(text)));
  await once(child, 'close');
  if (child.exitCode !== 0) throw new Error(`The build failed:\n${output}`);
}
