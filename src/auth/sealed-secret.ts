import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from 'node:crypto';

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
