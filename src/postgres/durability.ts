import { StartError } from '../core/start-error.ts';
import { withConnection } from './connection.ts';

/**
 * Refuses, with StartError, a server that would let a 201 lie, and returns warnings about what only may.
 *
 * Every `synchronous_commit` but `off` waits for the disk of the server itself, which is what a 201 promises;
 * they differ in what they ask of standbys. It is read as sessions of the service begin, so that a value set
 * for the role, the database or the URL counts.
 */
export async function checkDurability(url: string): Promise<string[]> {
  const settings = await readSettings(url);
  if (settings.get('server_encoding') !== 'UTF8') {
    throw new StartError(
      `The database is encoded in ${settings.get('server_encoding')}: create it with encoding UTF8.`,
    );
  }
  const off = ['fsync', 'synchronous_commit'].filter((name) => settings.get(name) === 'off');
  if (off.length > 0) {
    throw new StartError(
      `The database runs with ${off.join(' and ')} off: it would confirm notifications that a crash can lose. Turn ${off.length > 1 ? 'them' : 'it'} on.`,
    );
  }
  if (settings.get('full_page_writes') === 'off') {
    return [
      'The database runs with full_page_writes off: unless its file system never tears a page, a power cut can damage it.',
    ];
  }
  return [];
}

async function readSettings(url: string): Promise<Map<string, string>> {
  const names = ['server_encoding', 'fsync', 'synchronous_commit', 'full_page_writes'];
  return await withConnection({ url, name: 'tidings durability check' }, async (client) => {
    // What the session began with, before we set it up.
    const { rows } = await client.query<{ name: string; setting: string }>(
      'select name, reset_val as setting from pg_settings where name = any($1)',
      [names],
    );
    return new Map(rows.map(({ name, setting }) => [name, setting]));
  });
}
