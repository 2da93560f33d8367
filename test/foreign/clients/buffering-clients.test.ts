import { spawn, spawnSync, type ChildProcessByStdio } from 'node:child_process';
import { once } from 'node:events';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, expect, test } from '@jest/globals';
import { publish } from '../../support/api.ts';
import { startService, type Service } from '../../support/app.ts';
import { describeUnless } from '../../support/programs.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';

/*
 * HTTP clients that know nothing of events and give out a body by the buffer, the line or the chunk. None may hold an
 * event back until the next one comes.
 */

interface Client {
  readonly name: string;
  /** Ends with 0 where it is installed. */
  readonly check: readonly [string, ...string[]];
  /** Prints what it is given of a stream. */
  readonly read: (url: string, token: string) => readonly [string, ...string[]];
}

/* Debian's: its packages are not seen by another Python that may come first on the PATH. */
const PYTHON = '/usr/bin/python3';
const READERS = fileURLToPath(new URL('readers.py', import.meta.url));

const python = (library: string, module = library): Client => ({
  name: `Python's ${library}`,
  check: [PYTHON, '-c', `import ${module}`],
  read: (url, token) => [PYTHON, READERS, library, url, token],
});

const curl = (version: '1.0' | '1.1'): Client => ({
  name: `curl with HTTP/${version}`,
  check: ['curl', '--version'],
  read: (url, token) => [
    'curl',
    '--silent',
    '--no-buffer',
    `--http${version}`,
    '--header',
    `Authorization: Bearer ${token}`,
    url,
  ],
});

const CLIENTS = [
  python('requests'),
  python('httpx'),
  python('aiohttp'),
  python('tornado', 'tornado.httpclient'),
  python('urllib', 'urllib.request'),
  curl('1.1'),
  curl('1.0'),
];

let service: Service;
beforeAll(async () => {
  // Nothing but the event itself may push it through a buffer.
  service = await startService({ HEARTBEAT_SECONDS: '300' });
});
afterAll(() => service.close());

let child: ChildProcessByStdio<null, Readable, null> | undefined;
afterEach(() => {
  child?.kill();
  child = undefined;
});

/** What a client prints, and a way to wait for some text in it while it runs. */
class Printed {
  text = '';
  readonly #looks = new Set<() => void>();

  constructor(private readonly process: ChildProcessByStdio<null, Readable, null>) {
    process.stdout.setEncoding('utf8').on('data', (part: string) => {
      this.text += part;
      for (const look of this.#looks) look();
    });
    process.on('close', () => {
      for (const look of this.#looks) look();
    });
  }

  async until(text: string): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      const look = (): void => {
        const ended = this.process.exitCode !== null || this.process.signalCode !== null;
        if (!this.text.includes(text) && !ended) return;
        this.#looks.delete(look);
        if (this.text.includes(text)) resolve();
        else reject(new Error(`it ended before it printed ${text}: ${this.text.slice(-600)}`));
      };
      this.#looks.add(look);
      look();
    });
  }
}

for (const { name, check, read } of CLIENTS) {
  const [program, ...parameters] = check;
  const missing = spawnSync(program, parameters).status !== 0;

  describeUnless(missing ? `${name} is not installed` : undefined)(name, () => {
    test('gives out each notification before the next is sent, and the end', async () => {
      const user = name.replaceAll(/[^A-Za-z0-9]/g, '-');
      const [command, ...rest] = read(`${service.url}/v1/stream`, userToken({ user }));
      child = spawn(command, rest, { stdio: ['ignore', 'pipe', 'inherit'] });
      const closed = once(child, 'close');
      const printed = new Printed(child);
      await printed.until('event: caught-up');
      for (const text of ['one', 'two, which is longer', 'drei: äöü 👍']) {
        await publish(service.url, serviceToken(), { to: { user }, type: 't', data: { text } });
        await printed.until(`"data":{"text":"${text}"}`);
      }

      await fetch(`${service.url}/v1/users/${user}/disconnect`, {
        method: 'POST',
        headers: { authorization: `Bearer ${serviceToken({ scope: 'operations:write' })}` },
      });
      await printed.until('event: bye');
      // Not as if it had been cut off, which would be another code.
      expect(await closed).toEqual([0, null]);
    });
  });
}
