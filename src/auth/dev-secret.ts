import { randomBytes } from 'node:crypto';
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { StartError } from '../core/errors.ts';

const SECRET_BYTES = 48;
const LEAST_BYTES = 32;

/**
 * The secret that the service makes for itself when it is given none: text in `<dataDir>/jwt-secret`, readable by
 * its owner only, the same for everybody who asks.
 *
 * @throws StartError with a sentence for the operator if the file is there and holds no secret
 */
export async function loadOrCreateSecret(dataDir: string): Promise<string> {
  const file = join(dataDir, 'jwt-secret');
  const secret = (await read(file)) ?? (await create(dataDir, file));
  if (Buffer.byteLength(secret) < LEAST_BYTES) {
    throw new StartError(
      `${file} holds less than ${LEAST_BYTES} bytes. Delete it, and a new secret is made.`,
    );
  }
  return secret;
}

async function read(file: string): Promise<string | undefined> {
  try {
    return (await readFile(file, 'utf8')).trim();
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  }
}

/** Writes aside and links into place: of two at once one link succeeds, and nobody ever sees half a secret. */
async function create(dataDir: string, file: string): Promise<string> {
  const secret = randomBytes(SECRET_BYTES).toString('base64url');
  const aside = `${file}.${randomBytes(8).toString('hex')}`;
  await mkdir(dataDir, { recursive: true });
  await writeFile(aside, `${secret}\n`, { mode: 0o600, flag: 'wx' });
  try {
    await link(aside, file);
    return secret;
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error;
    return (await read(file)) ?? secret;
  } finally {
    await rm(aside);
  }
}

function hasCode(error: unknown, code: string): boolean {
  return typeof error === 'object' && error !== null && 'code' in error && error.code === code;
}
