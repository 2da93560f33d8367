import { createHash } from 'node:crypto';
import { z } from 'zod';
import { Problem } from '../core/errors.ts';

/*
 * A cursor says where a listing goes on and which listing that is. It is opaque, not secret, and grants nothing: the
 * tenant and every filter come from the request, and a cursor of another listing is refused instead of answering
 * something that nobody asked for.
 */

/** What a listing is about: the tenant, the route and the filters. Absent filters are left out. */
export type Listing = readonly (string | number | undefined)[];

const BOUND_BYTES = 9;

const bindingOf = (listing: Listing): string =>
  createHash('sha256')
    .update(JSON.stringify(listing.map((part) => part ?? null)))
    .digest('base64url')
    .slice(0, (BOUND_BYTES * 4) / 3);

export function writeCursor(listing: Listing, place: readonly (string | number)[]): string {
  return Buffer.from(JSON.stringify([bindingOf(listing), ...place])).toString('base64url');
}

/** The place that `writeCursor` was given, checked by `schema`. Throws Problem `validation_failed`. */
export function readCursor<Place extends z.ZodType>(
  listing: Listing,
  cursor: string,
  schema: Place,
): z.infer<Place> {
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

/** The page of a listing for which one item more than `limit` was asked: whether it is there tells if the listing goes on. */
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

export const positionPlace = z.tuple([z.number().int().min(0).max(Number.MAX_SAFE_INTEGER)]);
/** No NUL: it is no character of an id, and the database would refuse it. */
const text = z
  .string()
  .max(1_024)
  .refine((value) => value.isWellFormed() && !value.includes('\u0000'));
export const devicePlace = z.tuple([text, text]);
export const timelinePlace = z.tuple([z.number().int(), z.number().int(), text, text, text]);
export const connectionPlace = z.tuple([z.iso.datetime({ precision: 6 }), z.uuid()]);
