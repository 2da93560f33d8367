import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { findServerUser, give } from '../../src/postgres/server-home.ts';
import { loginOf } from '../../src/postgres/roles.ts';
import { throughPort, type TestDatabase } from './database.ts';
import { ownPort } from './own-port.ts';
import { describeWith, startProgram } from './programs.ts';

const PROGRAM = '/usr/sbin/pgbouncer';

/** When a session of the server is lent to the next client: after each transaction, or when the client leaves. */
export type PoolMode = 'transaction' | 'session';

/** Runs these tests behind a PgBouncer of each mode. Without PgBouncer they are skipped, or fail where all programs are required. */
export function describeBehindPgBouncer(tests: (mode: PoolMode) => void): void {
  for (const mode of ['transaction', 'session'] as const)
    describeWith(PROGRAM)(`behind PgBouncer by the ${mode}`, () => tests(mode));
}

/** A PgBouncer as it is installed, with no setting made for us. `database` is reached through it by the service's logins. */
export interface PgBouncer {
  readonly database: TestDatabase;
  end(): Promise<void>;
}

export async function startPgBouncer(direct: TestDatabase, mode: PoolMode): Promise<PgBouncer> {
  const home = await mkdtemp(join(tmpdir(), 'tidings-pgbouncer-'));
  const user = await findServerUser();
  const port = await ownPort();
  const logins = Object.values(direct.urls).map(loginOf);
  const path = (name: string) => join(home, name);
  await writeFile(
    path('users.txt'),
    logins.map(({ name, password }) => `"${name}" "${password}"\n`).join(''),
  );
  await writeFile(
    path('pgbouncer.ini'),
    `[databases]
* = host=127.0.0.1 port=${new URL(direct.url).port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = ${port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = ${path('users.txt')}
pool_mode = ${mode}
default_pool_size = 40
logfile = ${path('log')}
`,
  );
  await chmod(home, 0o700);
  for (const name of ['', 'users.txt', 'pgbouncer.ini']) await give(path(name), user);
  const program = await startProgram([PROGRAM, '-q', path('pgbouncer.ini')], port, { ...user, cwd: home });
  return {
    database: { ...direct, urls: throughPort(direct, port).urls },
    end: async () => {
      await program.end();
      await rm(home, { recursive: true, force: true });
    },
  };
}
