import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { chromium, type CDPSession } from 'playwright-core';
import { BidiSession } from './bidi.ts';
import { describeUnless } from './programs.ts';

/** A tab of a real browser. */
export interface Page {
  reload(): Promise<void>;
  /** The value of an expression (or of the promise that it gives) in the page, by way of JSON. */
  evaluate<Value>(expression: string): Promise<Value>;
  close(): Promise<void>;
  /** Nothing of it runs until it is thawed, as a browser does with tabs that nobody looks at. Only in Chromium. */
  readonly setFrozen?: (isFrozen: boolean) => Promise<void>;
  /** Its process ends. Only in Chromium. */
  readonly crash?: () => Promise<void>;
}

export interface Browser {
  open(url: string): Promise<Page>;
  /** Ends its processes and removes its profile. */
  close(): Promise<void>;
}

interface Installed {
  readonly name: string;
  start(): Promise<Browser>;
}

const BROWSERS = [
  {
    name: 'Chromium',
    paths: ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'],
    start: startChromium,
  },
  { name: 'Firefox', paths: ['/usr/bin/firefox-esr', '/usr/bin/firefox'], start: startFirefox },
];

/**
 * Runs these tests in every browser that is installed. A missing one is named and skipped, or, with
 * TIDINGS_REQUIRE_BROWSERS=1, an error.
 */
export function describeInBrowsers(tests: (browser: Installed) => void): void {
  for (const { name, paths, start } of BROWSERS) {
    const path = paths.find((candidate) => existsSync(candidate));
    const missing = `${name} is not installed (looked for ${paths.join(', ')})`;
    describeUnless(path === undefined ? missing : undefined)(name, () =>
      tests({ name, start: () => start(path ?? '') }),
    );
  }
}

/** For what never comes: a page is there in a moment, or in many when the machine is busy. */
const PATIENCE = { timeout: 120_000 };

async function startChromium(executablePath: string): Promise<Browser> {
  const quiet = [
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
  ];
  const browser = await chromium.launch({ ...PATIENCE, executablePath, args: ['--no-sandbox', ...quiet] });
  // One profile for all tabs, as in Firefox.
  const profile = await browser.newContext();
  return {
    async open(url) {
      const page = await profile.newPage();
      await page.goto(url, PATIENCE);
      // What a session has set ends with it.
      let debuggedBy: CDPSession | undefined;
      return {
        async reload() {
          await page.reload(PATIENCE);
        },
        evaluate: async <Value>(expression: string) =>
          JSON.parse(await page.evaluate<string>(asJson(expression))) as Value,
        close: () => page.close(),
        async setFrozen(isFrozen) {
          // The state `frozen` of the protocol is not for tabs that are looked at, as those of a headless browser are.
          debuggedBy ??= await profile.newCDPSession(page);
          await debuggedBy.send(isFrozen ? 'Debugger.enable' : 'Debugger.disable');
          if (isFrozen) await debuggedBy.send('Debugger.pause');
        },
        async crash() {
          const crashed = new Promise<void>((resolve) => page.once('crash', () => resolve()));
          const session = await profile.newCDPSession(page);
          // There is nobody left to answer.
          session.send('Page.crash').catch(() => undefined);
          await crashed;
        },
      };
    },
    close: () => browser.close(),
  };
}

/* Firefox as it is installed speaks WebDriver BiDi; a driver that needs a Firefox of its own build would not do. */
async function startFirefox(executablePath: string): Promise<Browser> {
  const profile = await mkdtemp(join(tmpdir(), 'tidings-firefox-'));
  const flags = ['--headless', '--no-remote', '--remote-debugging-port', '0', '--profile', profile];
  // A group of its own, so that no process of it can be left behind.
  const firefox = spawn(executablePath, flags, { detached: true, stdio: ['ignore', 'ignore', 'pipe'] });
  const ended = new Promise<void>((resolve) => firefox.on('exit', () => resolve()));
  const close = async () => {
    if (firefox.pid !== undefined && firefox.exitCode === null) process.kill(-firefox.pid, 'SIGKILL');
    await ended;
    await rm(profile, { recursive: true, force: true, maxRetries: 10, retryDelay: 100 });
  };
  try {
    const session = await BidiSession.start(await addressOf(firefox.stderr));
    return { open: (url) => openTab(session, url), close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function addressOf(output: NodeJS.ReadableStream): Promise<string> {
  const lines = createInterface({ input: output });
  for await (const line of lines) {
    const address = /WebDriver BiDi listening on (ws:\S+)/.exec(line)?.[1];
    if (address !== undefined) {
      // What it says later is dropped, but has to be read.
      output.resume();
      return address;
    }
  }
  throw new Error('Firefox ended before it listened');
}

async function openTab(session: BidiSession, url: string): Promise<Page> {
  const { context } = await session.send<{ context: string }>('browsingContext.create', { type: 'tab' });
  await session.send('browsingContext.navigate', { context, url, wait: 'complete' });
  return {
    async reload() {
      await session.send('browsingContext.reload', { context, wait: 'complete' });
    },
    async evaluate<Value>(expression: string) {
      const answer = await session.send<{
        type: string;
        result?: { value: string };
        exceptionDetails?: { text: string };
      }>('script.evaluate', {
        expression: asJson(expression),
        target: { context },
        awaitPromise: true,
      });
      if (answer.result === undefined || answer.type !== 'success')
        throw new Error(answer.exceptionDetails?.text ?? 'no answer');
      return JSON.parse(answer.result.value) as Value;
    },
    async close() {
      await session.send('browsingContext.close', { context });
    },
  };
}

const asJson = (expression: string) => `(async () => JSON.stringify((await (${expression})) ?? null))()`;
