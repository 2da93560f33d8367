import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { urlsOf, type DatabaseUrls } from '../../src/postgres/roles.ts';

/** A database, and how each login of the service gets to it. */
export interface DatabasePlace {
  /** By the superuser of the server, whom row-level security does not bind. */
  readonly url: string;
  readonly urls: DatabaseUrls & { readonly owner: string };
}

/** What a service is told of it. */
export const settingsOf = ({ urls }: DatabasePlace) => ({
  DATABASE_URL: urls.service,
  DATABASE_ENGINE_URL: urls.crossTenant,
});

/** The same database, reached through a proxy on this machine. */
export function throughPort({ url, urls }: DatabasePlace, port: number): DatabasePlace {
  const through = (direct: string): string => {
    const way = new URL(direct);
    way.hostname = '127.0.0.1';
    way.port = String(port);
    return way.href;
  };
  const { service, crossTenant, owner } = urls;
  return {
    url: through(url),
    urls: { service: through(service), crossTenant: through(crossTenant), owner: through(owner) },
  };
}

/** A migrated, empty database that belongs to one test file. */
export interface TestDatabase extends DatabasePlace {
  /** Runs SQL past the service: to look at what it stored, or to put something in its way. `bigint` comes as number. */
  query<Row extends pg.QueryResultRow = pg.QueryResultRow>(
    sql: string,
    values?: readonly unknown[],
  ): Promise<Row[]>;
  /** Ends every session in it and removes it. */
  drop(): Promise<void>;
}

const types = new pg.TypeOverrides();
types.setTypeParser(pg.types.builtins.INT8, Number);

/** The server of this run, by the login of the superuser. */
export function testServer(): string {
  const server = process.env['TIDINGS_TEST_SERVER'];
  if (server === undefined) throw new Error('The global setup of the tests has not run.');
  return server;
}

/** Copies the template of this run under a name of its own. */
export async function createDatabase(): Promise<TestDatabase> {
  const server = testServer();
  const name = `test_${randomBytes(8).toString('hex')}`;
  await administer(server, `create database ${name} template tidings_template owner tidings_owner`);
  // Rights on a database are not copied with it.
  await administer(server, `revoke temporary on database ${name} from public`);
  const url = new URL(server);
  url.pathname = `/${name}`;
  const pool = new pg.Pool({ connectionString: url.href, max: 4, types });
  pool.on('error', () => undefined);
  return {
    url: url.href,
    urls: urlsOf(server, name),
    async query<Row extends pg.QueryResultRow>(sql: string, values: readonly unknown[] = []) {
      const { rows } = await pool.query<Row>(sql, [...values]);
      return rows;
    },
    async drop() {
      await pool.end();
      await administer(server, `drop database ${name} with (force)`);
    },
  };
}

async function administer(server: string, sql: string): Promise<void> {
  const client = new pg.Client({ connectionString: server });
  await client.connect();
  try {
    await client.query(sql);
  } finally {
    await client.end();
  }
}
