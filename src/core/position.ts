import { z } from 'zod';

/**
 * A position is a 53-bit number that grows in commit order within a tenant and is made of time:
 * milliseconds since 2020-01-01 (database clock) × 4096, plus a count. It fits a JavaScript number until 2089.
 * Callers see it as an opaque decimal string.
 */
export type Position = number & { readonly __brand: 'Position' };

export const EPOCH_MS = Date.UTC(2020, 0, 1);
export const POSITIONS_PER_MS = 4096;

const isPosition = (value: number): value is Position => Number.isSafeInteger(value) && value >= 0;

/** A number that must be a position: from the database, or computed from one. Throws a RangeError if it is not. */
export function asPosition(value: number): Position {
  if (!isPosition(value)) throw new RangeError(`${value} is no position`);
  return value;
}

export const START = asPosition(0);

/** Reads what a caller sent. Anything but the canonical decimal form of a 53-bit number is undefined. */
export function parsePosition(text: string): Position | undefined {
  if (!/^(?:0|[1-9][0-9]{0,15})$/.test(text)) return undefined;
  const value = Number(text);
  return isPosition(value) ? value : undefined;
}

/** A position that a caller sends. `message`: where to find one, behind the name of the field. */
export const sentPosition = (message: string) =>
  z.string().transform((text, context) => {
    const position = parsePosition(text);
    if (position !== undefined) return position;
    context.addIssue({ code: 'custom', message });
    return z.NEVER;
  });

/** A position as callers are shown it. */
export const positionSchema = z
  .string()
  .regex(/^\d{1,16}$/)
  .meta({ description: 'An opaque decimal string that grows in commit order.' });

export const positionOfTime = (ms: number): Position =>
  asPosition(Math.max(0, Math.floor(ms - EPOCH_MS)) * POSITIONS_PER_MS);

/** The time inside a position, in ms since 1970: when the notification was accepted. */
export const timeOfPosition = (position: Position): number =>
  Math.floor(position / POSITIONS_PER_MS) + EPOCH_MS;

export const createdAt = (position: Position): string => new Date(timeOfPosition(position)).toISOString();

/** A time that a caller gives, RFC 3339. The database knows no year 0, and what browsers print has four digits. */
export const instantSchema = z.iso
  .datetime({
    offset: true,
    abort: true,
    error: 'is a time as RFC 3339 has it, such as 2026-12-01T00:00:00.000Z',
  })
  .refine((text) => {
    const time = Date.parse(text);
    return time >= 0 && time < Date.UTC(10_000, 0);
  }, 'is a time from 1970 to 9999')
  .transform((text) => new Date(text));
