import { z } from 'zod';

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
