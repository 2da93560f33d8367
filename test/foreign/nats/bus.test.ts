import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { connect } from '@nats-io/transport-node';
import { NatsTransport } from '../../../src/cluster/bus-transports.ts';
import { describeBus } from '../../support/bus-contract.ts';
import { ownPort } from '../../support/own-port.ts';
import { describeWith, startProgram } from '../../support/programs.ts';

const PROGRAM = '/usr/sbin/nats-server';

/** What has a special meaning in a URL, as passwords may. */
const PASSWORD = 'p@ss:w/rd';

describeWith(PROGRAM)('by NATS', () => {
  describeBus(2, async () => {
    const port = await ownPort();
    const server = await startProgram(
      [PROGRAM, '-a', '127.0.0.1', '-p', String(port), '--user', 'tidings', '--pass', PASSWORD],
      port,
    );
    const client = await connect({ servers: `127.0.0.1:${port}`, user: 'tidings', pass: PASSWORD });
    return {
      url: `nats://127.0.0.1:${port}`,
      settings: (place) => ({ NATS_URL: `nats://tidings:${encodeURIComponent(PASSWORD)}@${place}` }),
      say: async (payload) => {
        client.publish('tidings', payload);
        await client.flush();
      },
      close: async () => {
        await client.close();
        await server.end();
      },
    };
  });

  test.each(['publish', 'subscribe'])(
    'a login that may not %s is refused, and why is said',
    async (right) => {
      const port = await ownPort();
      const folder = await mkdtemp(join(tmpdir(), 'tidings-nats-'));
      const file = join(folder, 'server.conf');
      await writeFile(
        file,
        `listen: "127.0.0.1:${port}"
      authorization { users: [{ user: u, password: p, permissions: { ${right}: { deny: ">" } } }] }`,
      );
      const server = await startProgram([PROGRAM, '-c', file], port);
      const transport = new NatsTransport([`nats://u:p@127.0.0.1:${port}`], 'here');
      const stop = new AbortController();
      const listening = transport.listen(
        () => undefined,
        // The connection is closed for it, so that nobody answers.
        () => void transport.send(['something']).catch(() => undefined),
        stop.signal,
      );
      await expect(listening).rejects.toThrow(/Permissions Violation/i);
      stop.abort();
      await server.end();
      await rm(folder, { recursive: true });
    },
  );
});
