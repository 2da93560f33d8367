import { createHash, createHmac, pbkdf2Sync, randomBytes } from 'node:crypto';
import pg from 'pg';
import { readDatabaseUrl, type Login } from '../core/database-url.ts';
import { StartError } from '../core/start-error.ts';
import { withConnection } from './connection.ts';
import { errorCode } from './errors.ts';
import { takeFromEverybody } from './everybody.ts';

/**
 * The database as each of its logins reaches it. None of them can become another:
 *
 * - the service's reads and writes for callers, and sees the rows of one tenant at a time;
 * - the engine's runs the statements across tenants, on the tables and columns that those need;
 * - the owner's changes tables, and is not needed by a service whose tables are up to date.
 */
export interface DatabaseUrls {
  readonly service: string;
  readonly engine: string;
  readonly owner: string | undefined;
}

/** How the logins are called where we choose their names. */
const NAMES = { service: 'tidings_service', engine: 'tidings_engine', owner: 'tidings_owner' } as const;

export const loginOf = (url: string): Login => readDatabaseUrl(url).login;

/** The same place by other logins. Their passwords follow from that of the superuser in `url`, so that nothing else has to be kept. */
export function urlsOf(url: string, database: string): DatabaseUrls & { readonly owner: string } {
  const { password } = loginOf(url);
  const as = (name: string) => {
    const other = new URL(url);
    other.username = name;
    other.password = createHmac('sha256', password).update(name).digest('hex');
    other.pathname = `/${database}`;
    return other.href;
  };
  return { service: as(NAMES.service), engine: as(NAMES.engine), owner: as(NAMES.owner) };
}

/**
 * Makes a database for the logins of `urlsOf`, and the logins, where they are missing. For a server of our own: `admin`
 * is its superuser.
 */
export async function makeDatabase(admin: pg.Client, url: string, database: string): Promise<void> {
  const urls = urlsOf(url, database);
  for (const each of Object.values(urls)) await createLogin(admin, loginOf(each));
  // Who has the oldest snapshot is told only to those that the server trusts with other people's sessions.
  await admin.query(`grant pg_read_all_stats to ${NAMES.engine}`);
  const { rowCount } = await admin.query('select from pg_database where datname = $1', [database]);
  if (rowCount === 0)
    await admin.query(`create database ${pg.escapeIdentifier(database)} owner ${NAMES.owner}`);
  const inside = new URL(url);
  inside.pathname = `/${database}`;
  await withConnection({ url: inside.href, name: 'tidings rights' }, takeFromEverybody);
}

/**
 * Makes the logins that are named in the URLs of the service and the engine, where they are missing.
 * @throws StartError if the owner's login may not
 */
export async function ensureLogins(
  owner: pg.Client,
  { service, engine }: Pick<DatabaseUrls, 'service' | 'engine'>,
): Promise<void> {
  for (const login of [loginOf(service), loginOf(engine)]) {
    try {
      await createLogin(owner, login);
    } catch (error) {
      if (errorCode(error) !== '42501') throw error;
      throw new StartError(
        `There is no login ${login.name} in the database, and that of DATABASE_OWNER_URL may not create one. Have an administrator run: create role ${pg.escapeIdentifier(login.name)} login password '…'`,
        { cause: error },
      );
    }
  }
}

async function createLogin(client: pg.Client, { name, password }: Login): Promise<void> {
  const { rowCount } = await client.query('select from pg_roles where rolname = $1', [name]);
  if (rowCount !== 0) return;
  const verifier = pg.escapeLiteral(scramVerifier(password));
  await client.query(`create role ${pg.escapeIdentifier(name)} login password ${verifier}`);
}

const ITERATIONS = 4096;

/**
 * What the server keeps of a password (RFC 5803): sent in its place, since servers log statements like this one.
 */
function scramVerifier(password: string): string {
  const salt = randomBytes(16);
  const salted = pbkdf2Sync(password, salt, ITERATIONS, 32, 'sha256');
  const keyed = (text: string) => createHmac('sha256', salted).update(text).digest();
  const stored = createHash('sha256').update(keyed('Client Key')).digest('base64');
  return `SCRAM-SHA-256$${ITERATIONS}:${salt.toString('base64')}$${stored}:${keyed('Server Key').toString('base64')}`;
}
