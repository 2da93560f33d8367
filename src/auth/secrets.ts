import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto';
import { link, mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { StartError } from '../core/errors.ts';

/*
 * A sealed secret: one byte for the format, 12 of nonce, the ciphertext, 16 of tag (AES-256-GCM, NIST SP 800-38D).
 * The id of its issuer is authenticated with it: moved to another row, it does not open.
 */
const FORMAT = 1;
const NONCE_BYTES = 12;
const TAG_BYTES = 16;

/** Keeps the HS256 secrets of issuers unreadable for whoever can read the database but not the settings. */
export class SecretSeal {
  readonly #key: Buffer;

  /** @param secretsKey ISSUER_SECRETS_KEY, text of any form; the key itself is derived from it (RFC 5869). */
  constructor(secretsKey: string) {
    this.#key = Buffer.from(hkdfSync('sha256', secretsKey, '', 'tidings issuer secrets', 32));
  }

  seal(issuerId: string, secret: string): Buffer {
    // Random nonces of 96 bits are good for billions of secrets under one key (SP 800-38D §8.3).
    const nonce = randomBytes(NONCE_BYTES);
    const cipher = createCipheriv('aes-256-gcm', this.#key, nonce).setAAD(bindingOf(issuerId));
    const sealed = Buffer.concat([cipher.update(secret, 'utf8'), cipher.final()]);
    return Buffer.concat([Buffer.of(FORMAT), nonce, sealed, cipher.getAuthTag()]);
  }

  /** Throws an Error that says nothing of the content, if it was sealed with another key, for another issuer, or altered. */
  open(issuerId: string, sealed: Buffer): string {
    try {
      if (sealed[0] !== FORMAT) throw new Error('The format is unknown.');
      const nonce = sealed.subarray(1, 1 + NONCE_BYTES);
      const tag = sealed.subarray(-TAG_BYTES);
      const decipher = createDecipheriv('aes-256-gcm', this.#key, nonce, { authTagLength: TAG_BYTES })
        .setAAD(bindingOf(issuerId))
        .setAuthTag(tag);
      const text = decipher.update(sealed.subarray(1 + NONCE_BYTES, -TAG_BYTES));
      return Buffer.concat([text, decipher.final()]).toString('utf8');
    } catch {
      throw new Error('The secret does not open with ISSUER_SECRETS_KEY.');
    }
  }
}

const bindingOf = (issuerId: string): Buffer => Buffer.concat([Buffer.of(FORMAT), Buffer.from(issuerId)]);

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
