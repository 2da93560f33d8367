import type { z } from 'zod';
import { Problem } from '../core/errors.ts';

/** An id in a path. What cannot be one is answered as an id that nobody has. Throws Problem `not_found`. */
export function parseId<Schema extends z.ZodType>(
  schema: Schema,
  text: unknown,
  what: string,
): z.infer<Schema> {
  const parsed = schema.safeParse(text);
  if (parsed.success) return parsed.data;
  throw notFound(what);
}

export const notFound = (what: string): Problem => new Problem('not_found', `No ${what} has this id.`);
