import type { z } from 'zod';
import { DATABASE_PROBLEMS, json, type Answer, type Description } from '../http/description.ts';

/* What the descriptions of administrative routes have in common. */

export const page = (schema: z.ZodType, ...items: readonly unknown[]): Answer =>
  json(200, 'One page.', schema, { page: { summary: 'A page', value: { items, nextCursor: null } } });

export const DONE: Answer = {
  status: 204,
  description: 'It is stored and counts on this node; on the others within a second.',
};

export const COMMON = {
  tag: 'Administration',
  problems: [...DATABASE_PROBLEMS, 'keys_unavailable'],
} as const satisfies Partial<Description>;
export const WITH_ID = { ...COMMON, problems: [...COMMON.problems, 'not_found'] } as const;

export const EFFECT =
  'Counts on the node that answers as soon as it answers, on the others within a second, and is recorded in the audit log.';
export const PATCHING =
  'A member that is absent stays as it is; null takes its value away. What changes nothing is not recorded.';
