import { z } from 'zod';
import { ACTIONS } from '../audit/audit.ts';
import { tenantIdSchema } from '../core/identifiers.ts';
import { historyQuerySchema } from '../history/page.ts';
import { cursor, limit, pageOf, time } from './page.schema.ts';

const action = z.enum(ACTIONS);
const { since, until } = historyQuerySchema.shape;

export const auditQuerySchema = z.strictObject({
  action: action.optional(),
  since: since.meta({ description: 'Done at or after this time.' }),
  until: until.meta({ description: 'Done before this time.' }),
  limit,
  cursor,
});

const actorSchema = z
  .discriminatedUnion('kind', [
    z.strictObject({
      kind: z.literal('service'),
      tenant: tenantIdSchema,
      subject: z.string().meta({ description: '`sub` of its token.' }),
      issuer: z.string().nullable().meta({ description: '`iss` of its token.' }),
    }),
    z.strictObject({ kind: z.literal('command') }),
    z.strictObject({ kind: z.literal('administrator') }),
  ])
  .meta({
    id: 'Actor',
    description:
      'Who did it. `command`: somebody at the installation itself. `administrator`: somebody of another tenant, who is not shown.',
  });

const content = (description: string) => z.json().meta({ description });

const auditItemSchema = z
  .strictObject({
    id: z.uuid(),
    at: time,
    action,
    target: z.string().meta({
      description:
        'The id of the tenant, issuer, revocation, user or connection. A user who is erased is not named: `sha256:` and the SHA-256 of the id of the erasure, a colon and the id of the user.',
    }),
    actor: actorSchema,
    remoteAddress: z.string().nullable().meta({ description: 'Where the request came from.' }),
    requestId: z.string().nullable(),
    before: content('What the API showed of the target; null: there was none.'),
    after: content('The same after the act; null: there is none any more.'),
  })
  .meta({ id: 'AuditItem', description: 'An administrative act.' });

export const auditPageSchema = pageOf('AuditPage', auditItemSchema);
