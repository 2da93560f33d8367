import type { KeyObject } from 'node:crypto';
import { createRemoteJWKSet, customFetch, jwksCache, type JWKSCacheInput, type RemoteJWKSet } from 'jose';
import { z } from 'zod';
import {
  canonical,
  KEY_TYPES,
  keyIn,
  type KeyRequest,
  MOST_KEYS,
  NoSuchKey,
  type VerificationKeys,
} from './keys.ts';

/** All in ms. */
export const KEY_SET_TIMING = {
  /** Longest wait for the key server, body included. */
  timeout: 3_000,
  /** A key set younger than this is not asked for again because of a token that it does not fit: strangers can make up any number of those. */
  cooldown: 5_000,
  /** After a failure the key server is left alone for this long. */
  rest: 1_000,
  /** An older key set is fetched anew, beside the requests: none of them waits. */
  refreshAfter: 10 * 60_000,
  /** How long the keys at hand serve while the key server is away. */
  maxAge: 60 * 60_000,
};

/** Far above any real key set; a body without end must not fill the memory. */
const MAX_KEY_SET_BYTES = 256 * 1024;

const keySetSchema = z.object({ keys: z.array(z.unknown()) });
const keySchema = z.looseObject({
  kty: z.enum(KEY_TYPES),
  alg: z.string().transform(canonical).optional(),
});

/** The key set of an issuer (RFC 7517), fetched on first use and kept; one request in flight, redirects not followed. */
export class RemoteKeys implements VerificationKeys {
  readonly #resolve: RemoteJWKSet;
  readonly #cache: JWKSCacheInput = {};
  #restUntil = 0;
  #lookedAt = -Infinity;
  /** The set that the version is of, as the server sent it, and as text. */
  #known: { readonly set: unknown; readonly text: string | undefined } = { set: undefined, text: undefined };
  #version = 0;

  constructor(
    readonly url: string,
    private readonly warn: (message: string) => void = () => undefined,
    private readonly timing = KEY_SET_TIMING,
  ) {
    this.#resolve = createRemoteJWKSet(new URL(url), {
      timeoutDuration: timing.timeout,
      cooldownDuration: timing.cooldown,
      cacheMaxAge: timing.maxAge,
      [jwksCache]: this.#cache,
      [customFetch]: (target, options) => this.#fetch(target, options),
    });
  }

  async keyFor(request: KeyRequest): Promise<KeyObject> {
    const version = this.version();
    try {
      return await keyIn(this.#resolve, request);
    } catch (error) {
      if (!(error instanceof NoSuchKey)) throw error;
      await this.lookAgain();
      if (this.version() === version) throw error;
      return await keyIn(this.#resolve, request);
    }
  }

  /** Grows in the moment in which another set counts, and not with one that says the same. */
  version(): number {
    this.#refreshWhenOld();
    const set = this.#cache.jwks;
    if (set !== this.#known.set) {
      const text = JSON.stringify(set);
      if (text !== this.#known.text) this.#version += 1;
      this.#known = { set, text };
    }
    return this.#version;
  }

  async lookAgain(): Promise<void> {
    if (!this.#resolve.reloading) {
      const now = Date.now();
      if (this.#resolve.coolingDown || now < this.#lookedAt + this.timing.cooldown) return;
      this.#lookedAt = now;
    }
    await this.#reload();
  }

  #refreshWhenOld(): void {
    const fetchedAt = this.#cache['uat'];
    if (fetchedAt === undefined || Date.now() - fetchedAt < this.timing.refreshAfter) return;
    if (this.#resolve.reloading || Date.now() < this.#restUntil) return;
    void this.#reload();
  }

  async #reload(): Promise<void> {
    await this.#resolve
      .reload()
      .catch((error: unknown) => this.warn(`Signing keys not refreshed: ${String(error)}`));
  }

  async #fetch(url: string, options: RequestInit): Promise<Response> {
    if (Date.now() < this.#restUntil) throw new Error('The key server failed a moment ago.');
    try {
      // A redirect would let whoever controls one page of the provider's host name the keys.
      const response = await fetch(url, { ...options, redirect: 'manual' });
      if (response.status !== 200) {
        await response.body?.cancel();
        throw new Error(`The key server answered ${response.status}.`);
      }
      return Response.json({ keys: keysOf(await readBounded(response)) });
    } catch (error) {
      this.#restUntil = Date.now() + this.timing.rest;
      throw error;
    }
  }
}

/** RFC 7517 §5: keys of a kind that is not understood are passed over, and do not spoil the others. */
function keysOf(body: string): unknown[] {
  const keys = keySetSchema.parse(JSON.parse(body)).keys.flatMap((key) => {
    const { success, data } = keySchema.safeParse(key);
    return success ? [data] : [];
  });
  if (keys.length > MOST_KEYS) throw new Error(`The key set holds more than ${MOST_KEYS} keys.`);
  return keys;
}

async function readBounded(response: Response): Promise<string> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of response.body ?? []) {
    size += chunk.byteLength;
    if (size > MAX_KEY_SET_BYTES) throw new Error(`The key set is larger than ${MAX_KEY_SET_BYTES} bytes.`);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks).toString('utf8');
}
