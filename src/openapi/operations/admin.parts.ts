import type { z } from 'zod';
import { userQuerySchema } from '../../admin/request-parameters.ts';
import { DATABASE_PROBLEMS, type Answer, type Examples, type Operation } from '../operation.ts';

/* What the descriptions of administrative routes have in common. */

export const json = (status: number, description: string, schema: z.ZodType, examples: Examples): Answer => ({
  status,
  description,
  content: [{ mediaType: 'application/json', schema, examples }],
});

export const page = (schema: z.ZodType, ...items: readonly unknown[]): Answer =>
  json(200, 'One page.', schema, { page: { summary: 'A page', value: { items, nextCursor: null } } });

export const DONE: Answer = {
  status: 204,
  description: 'It is stored and counts on this node; on the others within a second.',
};

export const COMMON = {
  tag: 'Administration',
  problems: [...DATABASE_PROBLEMS, 'keys_unavailable'],
} as const satisfies Partial<Operation>;
export const WITH_ID = { ...COMMON, problems: [...COMMON.problems, 'not_found'] } as const;

export const EFFECT =
  'Counts on the node that answers as soon as it answers, on the others within a second, and is recorded in the audit log.';
export const PATCHING =
  'A member that is absent stays as it is; null takes its value away. What changes nothing is not recorded.';

/** What is said of a user in the path, for one who is named in the query. */
export function byQuery(byPath: Operation): Operation {
  const { pathParameters: _, problems, ...operation } = byPath;
  return {
    ...operation,
    path: operation.path.replace('/{id}', ''),
    id: `${operation.id}ByQuery`,
    summary: `${operation.summary}, named in the query`,
    description: `As \`${operation.method.toUpperCase()} ${operation.path}\`, for any user: no path carries \`.\` or \`..\`, since clients take them
for a step in it, also when they are encoded.`,
    query: userQuerySchema,
    problems: problems.filter((code) => code !== 'not_found'),
  };
}
