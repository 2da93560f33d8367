import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { withConnection } from './connection.ts';
import { DATABASE, secretsSchema } from './embedded-server.ts';
import { urlsOf, type DatabaseUrls } from './roles.ts';
import { serverUrl } from './server-process.ts';

/** Where the embedded server under DATA_DIR answers, if a service is running it now. Starts and changes nothing. */
export async function findRunningServer(dataDir: string): Promise<DatabaseUrls | undefined> {
  const elsewhere = await readFile(join(dataDir, 'postgres-is-in'), 'utf8').catch(() => undefined);
  const home = elsewhere?.trim() ?? join(dataDir, 'postgres');
  const kept = await readFile(join(home, 'server.json'), 'utf8').catch(() => undefined);
  if (kept === undefined) return undefined;
  const url = serverUrl(secretsSchema.parse(JSON.parse(kept)), 'postgres');
  return await withConnection(
    { url, name: 'tidings look-up', connectTimeoutMs: 2_000, answerTimeoutMs: 2_000 },
    async () => urlsOf(url, DATABASE),
  ).catch(() => undefined);
}
