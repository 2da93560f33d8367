import { createHash } from 'node:crypto';
import { Readable } from 'node:stream';
import { z } from 'zod';
import { Problem } from '../core/errors.ts';
import { instantSchema } from '../core/position.ts';

/*
 * Every list is read in pages. Here is what all of them have in common: their parameters and cursors, and how a list goes out
 * as lines.
 *
 * `limit` is checked as text, because as numbers '' and '5.0' would pass too.
 */

const limitSchema = z
  .string()
  .regex(/^[1-9][0-9]{0,2}$/, 'is a whole number from 1 to 200')
  .transform(Number)
  .pipe(z.number().max(200, 'is a whole number from 1 to 200'))
  .optional()
  .meta({ description: 'Most items of one page, 1 to 200; 50 when absent.' });

const cursorSchema = z
  .string()
  .max(4_096)
  .optional()
  .meta({ description: '`nextCursor` of the page before, with the same filters.' });

/** A query parameter that bounds a list in time; read as ms since 1970. */
export const timeParameter = (description: string) =>
  instantSchema
    .transform((instant) => instant.getTime())
    .optional()
    .meta({ description });

/** `limit` and `cursor`, as every list takes them. */
export const pageParameters = { limit: limitSchema, cursor: cursorSchema };

export const DEFAULT_LIMIT = 50;

export const pageQuerySchema = z.strictObject(pageParameters);

/** Of lists whose pages are bounded in what they read. */
export const scannedCursorSchema = z.string().nullable().meta({
  description:
    'Send it as `cursor` for the next page; null: there is none. A page may hold fewer items than asked for, even none, while this is set.',
});

/** One page of a list. */
export const pageSchema = (id: string, item: z.ZodType) =>
  z
    .strictObject({
      items: z.array(item),
      nextCursor: z
        .string()
        .nullable()
        .meta({ description: 'Send it as `cursor` for the next page; null: there is none.' }),
    })
    .meta({ id });

/*
 * A cursor says where a listing goes on, and to which listing it belongs. It is opaque but not secret, and it grants
 * nothing: the tenant and every filter come from the request. A cursor of another listing is refused, since it would
 * answer a question that nobody asked.
 */

/** What a listing is about: the tenant, the route and the filters. Absent filters are left out. */
export type Listing = readonly (string | number | undefined)[];

/** How much of the hash of its listing a cursor carries. */
const BINDING_BYTES = 9;

const bindingOf = (listing: Listing): string =>
  createHash('sha256')
    .update(JSON.stringify(listing.map((part) => part ?? null)))
    .digest('base64url')
    .slice(0, (BINDING_BYTES * 4) / 3);

export function writeCursor(listing: Listing, place: readonly (string | number)[]): string {
  return Buffer.from(JSON.stringify([bindingOf(listing), ...place])).toString('base64url');
}

/** The place that `writeCursor` was given, checked by `schema`; undefined: the first page is asked for. Throws Problem `validation_failed`. */
export function readCursor<Place extends z.ZodType>(
  listing: Listing,
  cursor: string | undefined,
  schema: Place,
): z.infer<Place> | undefined {
  if (cursor === undefined) return undefined;
  const [binding, ...place] = decode(cursor);
  const parsed = schema.safeParse(place);
  if (parsed.success && binding === bindingOf(listing)) return parsed.data;
  throw new Problem('validation_failed', 'The query is not valid.', {
    errors: [
      {
        pointer: '/cursor',
        detail: 'is no cursor of this listing; send it with the filters that it came with',
      },
    ],
  });
}

/** A page out of `limit` + 1 items that were read: there is a next page if the last of them is there. */
export function pageOf<Item>(
  found: readonly Item[],
  limit: number,
  listing: Listing,
  placeOf: (item: Item) => readonly (string | number)[],
): { items: Item[]; nextCursor: string | null } {
  const items = found.slice(0, limit);
  const last = found.length > limit ? items.at(-1) : undefined;
  return { items, nextCursor: last === undefined ? null : writeCursor(listing, placeOf(last)) };
}

function decode(cursor: string): unknown[] {
  try {
    const value: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString());
    return Array.isArray(value) ? value : [];
  } catch {
    return [];
  }
}

/** No id has a NUL, and the database would refuse one. */
export const idPlace = z
  .string()
  .max(1_024)
  .refine((value) => value.isWellFormed() && !value.includes('\u0000'));

/** Where a listing by position goes on. */
export const positionPlace = z.tuple([z.number().int().min(0).max(Number.MAX_SAFE_INTEGER)]);

/** Where a listing by time goes on: at a time with all its digits, and at an id among those of the same time. */
export const timePlace = z.tuple([z.iso.datetime({ precision: 6 }), z.uuid()]);

/**
 * An answer as lines of JSON (application/x-ndjson), made page by page. A page is asked for when the socket has room, and is
 * read by statements of its own, so that neither a slow reader nor a long selection keeps a snapshot of the database open.
 * When the reader goes away, no further page is asked for. When a page fails, the response is destroyed before its end,
 * which every client notices; a list that simply ended early would look complete.
 *
 * @param pages each the text of some whole lines, or empty
 */
export function streamLines(pages: AsyncIterable<string>): Readable {
  return Readable.from(pages, { objectMode: false, highWaterMark: 1 });
}

/** The same, but the first page is read before the status is sent, so that its failure can still be answered as a problem. */
export async function beginLines(pages: AsyncGenerator<string>): Promise<Readable> {
  return streamLines(resume(await pages.next(), pages));
}

/** The whole iteration, of which the first step was taken already. */
async function* resume<Value>(
  first: IteratorResult<Value, unknown>,
  rest: AsyncGenerator<Value>,
): AsyncGenerator<Value> {
  if (first.done === true) return;
  try {
    yield first.value;
    yield* rest;
  } finally {
    await rest.return(undefined);
  }
}

export const LINES_TYPE = 'application/x-ndjson; charset=utf-8';

/** Whether the caller asked for lines: the type is named in `Accept` and not refused by `q=0` (RFC 9110 §12.5.1). */
export function wantsLines(accept: string | undefined): boolean {
  return (accept ?? '').split(',').some((range) => {
    const [type, ...parameters] = range.split(';').map((part) => part.trim().toLowerCase());
    return (
      type === 'application/x-ndjson' && !parameters.some((parameter) => /^q=0(?:\.0*)?$/.test(parameter))
    );
  });
}
