import { z } from 'zod';
import { pageQuerySchema } from '../history/page.ts';

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

/** A time in an answer, where it is still a Date. */
export const time = z.iso.datetime();
