import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import { finished } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { FastifyRequest } from 'fastify';
import { z } from 'zod';
import type { Config } from '../core/config.ts';
import type { Slice } from './raw-json.ts';
import { Problem, type Fault } from '../core/errors.ts';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** Most bytes of the body. Default: BODY_BYTES. Of what is published: MAX_REQUEST_BYTES. */
    bodyBytes?: number;
  }
}

/** Enough for whatever an administrator sends, also for a set of keys and a thousand tenants. */
const BODY_BYTES = 256 * 1024;

/** A request body that is JSON: its bytes, the text that they spell, and what JSON.parse makes of it. */
export class JsonBody {
  #value: { readonly parsed: unknown } | undefined;

  constructor(
    readonly bytes: Buffer,
    readonly text: string,
  ) {}

  /** @throws Problem `malformed_json` */
  get value(): unknown {
    this.#value ??= { parsed: parseJson(this.text) };
    return this.#value.parsed;
  }
}

const utf8 = new TextDecoder('utf-8', { fatal: true });

/**
 * Reads JSON bodies as JsonBody, once it is known who is calling: each route has its limit, and each caller a share of what this
 * node holds of bodies.
 */
export class BodyReader {
  readonly #most: number;
  readonly #shares: BodyShares;

  constructor({ MAX_REQUEST_BYTES: most }: Pick<Config, 'MAX_REQUEST_BYTES'>) {
    this.#most = most;
    this.#shares = new BodyShares(most);
  }

  /** A parser of Fastify. @throws Problem `unsupported_media_type`, `body_too_large`, `malformed_request`, `malformed_json`, `overloaded` */
  readonly read = async (
    request: FastifyRequest,
    payload: IncomingMessage,
  ): Promise<JsonBody | undefined> => {
    // Nobody will look at it.
    if (request.is404) return undefined;
    refuseEncodings(request.headers);
    const { publishes, bodyBytes = BODY_BYTES } = request.routeOptions.config;
    const most = publishes === true ? this.#most : Math.min(bodyBytes, this.#most);
    return readJson(await readBytes(request, payload, most, this.#shares));
  };

  /** When the work is done, also when nobody is there any more to be answered: a client that leaves ends no work. */
  release(request: FastifyRequest): void {
    request.body = undefined;
    this.#shares.giveBack(request);
  }
}

/** Whether a request says that it has a body. */
export function carriesBody({ method, headers }: FastifyRequest): boolean {
  if (method === 'GET' || method === 'HEAD') return false;
  return headers['transfer-encoding'] !== undefined || (headers['content-length'] ?? '0') !== '0';
}

function refuseEncodings(headers: IncomingHttpHeaders): void {
  const content = headers['content-encoding'] ?? 'identity';
  const transfer = headers['transfer-encoding'] ?? 'chunked';
  if (content.toLowerCase() === 'identity' && transfer.toLowerCase() === 'chunked') return;
  throw new Problem('unsupported_media_type', 'The body must not be compressed.', {
    headers: { 'accept-encoding': 'identity' },
  });
}

/** How long the rest of a body that is too large is read for nothing, in ms: a client that sends does not hear yet. */
const LINGER_MS = 1_000;

async function readBytes(
  request: FastifyRequest,
  payload: IncomingMessage,
  most: number,
  shares: BodyShares,
): Promise<Buffer> {
  const announced = Number(request.headers['content-length'] ?? 0);
  const chunks: Buffer[] = [];
  let length = 0;
  try {
    // Its client has left while it was found out who it is.
    if (payload.destroyed) throw cutOff();
    if (announced > most) throw tooLarge(most);
    shares.check(request, announced);
    await new Promise<void>((resolve, reject) => {
      payload.on('data', (chunk: Buffer) => {
        length += chunk.length;
        if (length > most) return reject(tooLarge(most));
        try {
          shares.take(request, chunk.length);
        } catch (error) {
          return reject(error);
        }
        chunks.push(chunk);
      });
      let complete = false;
      payload.once('end', () => {
        complete = true;
        resolve();
      });
      // One whose client has left may have neither `end` nor `error`. Every other one is closed, too: an error that nobody sees,
      // with its stack, was a tenth of what a publish costs.
      for (const over of ['error', 'close'])
        payload.once(over, () => {
          if (!complete) reject(cutOff());
        });
    });
  } catch (error) {
    payload.removeAllListeners('data').resume();
    await Promise.race([finished(payload, { writable: false }).catch(() => undefined), sleep(LINGER_MS)]);
    throw error;
  }
  return chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks, length);
}

const cutOff = () => new Problem('malformed_request', 'The body has not come to its end.');
const tooLarge = (most: number) => new Problem('body_too_large', `The body may have ${most} bytes here.`);

/**
 * Bounds the bytes of bodies that this node holds: what has come of those on their way, and those of requests that are at
 * work, whether or not their clients still wait. A few hundred would otherwise fill its memory.
 *
 * Nobody may have more than is left for others, as in the dynamic thresholds by which a switch shares its memory (Choudhury and
 * Hahne, 1998): of what its tenant may have a caller may have as much as it leaves, and the same holds for a tenant and the
 * node. So one caller that wants everything gets a third of it, two of a tenant get a fifth each, and there is always room for
 * one more.
 */
class BodyShares {
  readonly #all: number;
  readonly #taken = new Map<string, number>();
  readonly #held = new WeakMap<FastifyRequest, Held>();

  constructor(largest: number) {
    // So that the largest body fits beside one of another tenant.
    this.#all = Math.max(128 * 1024 * 1024, 4 * largest);
  }

  /**
   * That so many bytes more would be within the share of the caller.
   * @throws Problem `overloaded`
   */
  check(request: FastifyRequest, bytes: number): void {
    // caller <= left of the tenant = left of the node - tenant = all - node - tenant
    let needed = 0;
    for (const owner of this.#of(request).owners) needed += (this.#taken.get(owner) ?? 0) + bytes;
    if (needed <= this.#all) return;
    throw new Problem('overloaded', 'Too many bytes of requests are on their way to this node.', {
      retryAfter: 1,
    });
  }

  /** @throws Problem `overloaded` */
  take(request: FastifyRequest, bytes: number): void {
    this.check(request, bytes);
    const held = this.#of(request);
    held.bytes += bytes;
    for (const owner of held.owners) this.#taken.set(owner, (this.#taken.get(owner) ?? 0) + bytes);
  }

  giveBack(request: FastifyRequest): void {
    const held = this.#held.get(request);
    if (held === undefined) return;
    this.#held.delete(request);
    for (const owner of held.owners) {
      const left = (this.#taken.get(owner) ?? 0) - held.bytes;
      if (left > 0) this.#taken.set(owner, left);
      else this.#taken.delete(owner);
    }
  }

  /** Asked with every chunk: whose it is is put together once. */
  #of(request: FastifyRequest): Held {
    const { user } = request;
    const held = this.#held.get(request) ?? {
      owners: ['', `${user?.tenantId}`, `${user?.tenantId} ${user?.subject}`],
      bytes: 0,
    };
    this.#held.set(request, held);
    return held;
  }
}

/** Of one request. */
interface Held {
  /** Everybody, the tenant, the caller. */
  readonly owners: readonly string[];
  bytes: number;
}

export function readJson(bytes: Buffer): JsonBody {
  try {
    return new JsonBody(bytes, utf8.decode(bytes));
  } catch {
    throw new Problem('malformed_json', 'The body is not valid UTF-8.');
  }
}

/**
 * JSON.parse of a text, or of a part of it.
 * @throws Problem `malformed_json`
 */
export function parseJson(text: string, { start, end }: Slice = { start: 0, end: text.length }): unknown {
  const part = text.slice(start, end);
  try {
    return JSON.parse(part);
  } catch (error) {
    throw part.trim() === '' ? emptyBody() : malformed(error, start);
  }
}

const emptyBody = () => new Problem('malformed_json', 'The body is empty.');

/**
 * V8 quotes the text around the fault; payloads must not reach logs or intermediaries, the place is enough.
 * @param from where the text that it speaks of begins in the body
 */
export function malformed(error: unknown, from = 0): Problem {
  const place = error instanceof Error ? /at position (\d+)/.exec(error.message)?.[1] : undefined;
  return new Problem(
    'malformed_json',
    place === undefined
      ? 'The body is not valid JSON.'
      : `The body is not valid JSON at character ${from + Number(place)}.`,
  );
}

/** Checks a body against its schema. */
export function parseBody<Schema extends z.ZodType>(schema: Schema, body: unknown): z.infer<Schema> {
  return parse(schema, asJsonBody(body).value, 'The body is not valid.');
}

export function asJsonBody(body: unknown): JsonBody {
  if (body instanceof JsonBody) return body;
  throw emptyBody();
}

/** Checks a query string. Pointers are `/` and the name of the parameter. */
export function parseQuery<Schema extends z.ZodType>(schema: Schema, query: unknown): z.infer<Schema> {
  return parse(schema, query, 'The query is not valid.');
}

const noQuerySchema = z.strictObject({});

/** For routes without query parameters: every parameter is unknown. */
export function refuseQuery(query: unknown): void {
  parseQuery(noQuerySchema, query);
}

function parse<Schema extends z.ZodType>(schema: Schema, value: unknown, detail: string): z.infer<Schema> {
  const checked = check(schema, value);
  if ('faults' in checked) throw notValid(checked.faults, detail);
  return checked.value;
}

/** Holds a value against its schema. @param path where it stands */
export function check<Schema extends z.ZodType>(
  schema: Schema,
  value: unknown,
  path: readonly PropertyKey[] = [],
): { readonly value: z.infer<Schema> } | { readonly faults: Fault[] } {
  const parsed = schema.safeParse(value, {
    error: ({ input }) => (input === undefined ? 'is required' : undefined),
  });
  if (parsed.success) return { value: parsed.data };
  return {
    faults: parsed.error.issues.flatMap((issue) => faultsOf({ ...issue, path: [...path, ...issue.path] })),
  };
}

export const notValid = (errors: Fault[], detail = 'The body is not valid.'): Problem =>
  new Problem('validation_failed', detail, { errors });

function faultsOf(issue: z.core.$ZodIssue): Fault[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => ({
      pointer: pointerTo([...issue.path, key]),
      detail: 'This field is not known.',
    }));
  }
  return [{ pointer: pointerTo(issue.path), detail: issue.message }];
}

/** A JSON pointer (RFC 6901). */
export function pointerTo(path: readonly PropertyKey[]): string {
  return path.map((part) => `/${String(part).replaceAll('~', '~0').replaceAll('/', '~1')}`).join('');
}
