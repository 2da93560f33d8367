import { z } from 'zod';
import { pageQuerySchema } from '../notifications/history.query.ts';

/** `limit` and `cursor`, as every list takes them. */
export const { limit, cursor } = pageQuerySchema.shape;

/** One page of a list. */
export const pageOf = (id: string, item: z.ZodType) =>
  z
    .strictObject({
      items: z.array(item),
      nextCursor: z
        .string()
        .nullable()
        .meta({ description: 'Send it as `cursor` for the next page; null: there is none.' }),
    })
    .meta({ id });

/** A time in a body. The database knows no year 0, and what browsers print has four digits. */
export const instant = z.iso
  .datetime({ offset: true, error: 'is a time as RFC 3339 has it, such as 2026-12-01T00:00:00.000Z' })
  .refine((text) => {
    const time = Date.parse(text);
    return time >= 0 && time < Date.UTC(10_000, 0);
  }, 'is a time from 1970 to 9999')
  .transform((text) => new Date(text));

/** A time in an answer, where it is still a Date. */
export const time = z.iso.datetime();
